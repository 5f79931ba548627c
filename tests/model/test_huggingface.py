"""Hugging Face integration: save, load, Auto classes, tied weights, tokenizer, presets."""

import warnings

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

from ldarnet import (
    DNATokenizer,
    LDARNetConfig,
    LDARNetForMaskedLM,
    LDARNetForSequenceClassification,
    LDARNetModel,
)
from ldarnet.model import PRESETS
from ldarnet.model.bimamba2 import BiMamba2
from ldarnet.model.blocks import LocalAttention, SwiGLU


@pytest.mark.parametrize("tied", [False, True])
def test_a_loaded_model_gives_the_same_logits(tied, tmp_path):
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny", tie_word_embeddings=tied)).eval()
    model.save_pretrained(tmp_path)
    ids = torch.randint(0, 4, (2, 70))
    expected = model(ids).logits
    for loader in (LDARNetForMaskedLM, AutoModelForMaskedLM, AutoModelForMaskedLM):
        loaded = loader.from_pretrained(tmp_path).eval()
        assert type(loaded) is LDARNetForMaskedLM
        assert torch.equal(loaded(ids).logits, expected)
        assert (loaded.lm_head.weight is loaded.model.embeddings.weight) == tied
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) != tied


def test_a_model_is_built_on_the_context_device():
    with torch.device("meta"):
        model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))
    assert all(tensor.is_meta for tensor in model.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_float32(dtype, tmp_path):
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny")).eval()
    model.save_pretrained(tmp_path)
    half = AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=dtype).eval()
    ids = torch.randint(0, 4, (2, 50))
    out, exact = half(ids, labels=ids), model(ids, labels=ids)
    assert {p.dtype for p in half.parameters()} == {dtype}
    assert out.logits.dtype == torch.float32
    assert out.boundaries[0].probability.dtype == torch.float32
    torch.testing.assert_close(out.loss, exact.loss, rtol=0.05, atol=0.0)
    out.loss.backward()
    assert all(p.grad.isfinite().all() for p in half.parameters())


def test_weights_are_shared_between_heads(tmp_path):
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny")).eval()
    model.save_pretrained(tmp_path)
    ids = torch.randint(0, 4, (1, 33))
    hidden = model(ids).last_hidden_state
    assert torch.equal(AutoModel.from_pretrained(tmp_path).eval()(ids).last_hidden_state, hidden)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3).eval()
    assert type(classifier) is LDARNetForSequenceClassification
    assert torch.equal(classifier(ids).last_hidden_state, hidden)
    assert isinstance(AutoModel.from_config(AutoConfig.from_pretrained(tmp_path)), LDARNetModel)


@pytest.mark.parametrize(("name", "parameters"), [("ldarnet-110m", 110_687_296), ("ldarnet-2m", 2_011_288)])
def test_published_sizes(name, parameters):
    with torch.device("meta"):
        model = LDARNetForMaskedLM(LDARNetConfig.preset(name))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_initialization_follows_the_paper():
    torch.manual_seed(0)
    model = LDARNetForMaskedLM(LDARNetConfig.preset("ldarnet-2m"))
    backbone, inner = model.model.backbone, model.model.backbone.main.main

    def std(weight):
        return weight.std().item()

    assert std(backbone.encoder.layers[0].mixer.in_proj.weight) == pytest.approx(0.02, rel=0.05)
    # Seven residual branches in encoder and decoder, twelve in the main network.
    assert std(backbone.encoder.layers[3].mixer.out_proj.weight) == pytest.approx(0.02 / 7**0.5, rel=0.05)
    assert std(inner.layers[5].mlp.fc2.weight) == pytest.approx(0.02 / 19**0.5, rel=0.05)
    assert torch.equal(backbone.router.q_proj.weight, torch.eye(64))
    assert not backbone.residual_proj.weight.any()
    mixer = inner.layers[0].mixer
    assert (mixer.A_log.exp() >= 1).all()
    assert (mixer.A_log.exp() <= 16).all()
    dt = torch.nn.functional.softplus(mixer.dt_bias)
    assert dt.min() >= 1e-3 * 0.99
    assert dt.max() <= 1e-1 * 1.01
    assert (mixer.D == 1).all()


def test_parameter_stages_and_weight_decay_of_a_nested_layout():
    model = LDARNetForMaskedLM(
        LDARNetConfig.preset(
            "tiny",
            arch_layout=["m1", ["M1", ["M1"], "m1"], "m1"],
            d_model=[16, 24, 32],
            d_intermediate=[0, 32, 32],
            attn_cfg={},
        )
    )
    stages = model.parameter_stage()
    assert stages.keys() == dict(model.named_parameters()).keys()
    expected = {
        "lm_head.weight": 0,
        "model.embeddings.weight": 0,
        "model.backbone.router.q_proj.weight": 0,
        "model.backbone.decoder.norm.weight": 0,
        "model.backbone.main.pad_dimension": 1,
        "model.backbone.main.encoder.layers.0.mixer.in_proj.weight": 1,
        "model.backbone.main.decoder.norm.weight": 1,
        "model.backbone.main.main.pad_dimension": 2,
        "model.backbone.main.main.main.layers.0.mlp.fc1.weight": 2,
        "model.backbone.main.main.main.norm.weight": 2,
    }
    assert {name: stages[name] for name in expected} == expected
    without_decay = model.no_weight_decay()
    assert {name.rpartition(".")[2] for name in without_decay} == {
        "weight", "bias", "conv_bias", "norm_weight", "A_log", "D", "dt_bias",
    }  # fmt: skip
    assert all("norm" in name for name in without_decay if name.endswith(".weight"))
    assert not any("proj.weight" in name or "fc" in name or "conv_weight" in name for name in without_decay)


@pytest.mark.parametrize("preset", PRESETS)
def test_matrices_of_the_hidden_layers(preset):
    with torch.device("meta"):
        model = LDARNetForMaskedLM(LDARNetConfig.preset(preset))
    matrices, parameters = model.matrix_rows(), dict(model.named_parameters())
    assert all(parameters[name].ndim == 2 and sum(rows) == len(parameters[name]) for name, rows in matrices.items())
    others = {name for name, parameter in parameters.items() if parameter.ndim >= 2} - matrices.keys()
    assert {name.removesuffix(".weight").rpartition(".")[2] for name in others} == {
        *("lm_head", "embeddings", "q_proj", "k_proj"),
        *("conv_weight", "conv_bias", "A_log", "D", "dt_bias", "norm_weight"),
    }
    for name, module in model.named_modules():
        match module:
            case BiMamba2():
                parts = (module.inner, module.inner, module.d_state, module.d_state, module.heads)
                assert matrices[f"{name}.in_proj.weight"] == parts
            case LocalAttention():
                assert matrices[f"{name}.qkv_proj.weight"] == (module.out_proj.out_features,) * 3
            case SwiGLU():
                assert matrices[f"{name}.fc1.weight"] == (module.fc2.in_features,) * 2


@pytest.mark.parametrize("preset", PRESETS)
def test_parameter_stages_of_the_presets(preset):
    with torch.device("meta"):
        model = LDARNetForMaskedLM(LDARNetConfig.preset(preset))
    for name, stage in model.parameter_stage().items():
        assert stage == name.startswith("model.backbone.main."), name
    assert set(model.parameter_stage()) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch_layout": ["m1t", ["M1"], "m1"]}, "'m1t' is not a stack"),
        ({"arch_layout": ["m1", "M1", "m1"]}, "is neither"),
        ({"d_model": [16]}, "d_model.*must have one entry for each of the 2 stages"),
        ({"d_model": [24, 16]}, "must not decrease"),
        ({"ssm_cfg": {"state": 8}}, "ssm_cfg: unknown keys.*state"),
        ({"ssm_cfg": {"headdim": 7}}, "must be a multiple of headdim 7"),
        ({"attn_cfg": {"num_heads": [3, 2], "rotary_emb_dim": [8, 8], "window_size": [7, -1]}}, "3 does not divide"),
        (
            {"attn_cfg": {"num_heads": [2, 2], "rotary_emb_dim": [10, 8], "window_size": [7, -1]}},
            "at most the head dimension 8",
        ),
        ({"attn_cfg": {}}, "attn_cfg.num_heads: must have one entry"),
        (
            {"attn_cfg": {"num_heads": [0, 2], "rotary_emb_dim": [8, 8], "window_size": [7, -1]}},
            "num_heads: must be at least 1, not 0",
        ),
        (
            {"attn_cfg": {"num_heads": [2, 2], "rotary_emb_dim": [8, 8], "window_size": [-7, -1]}},
            "size: must be at least -1, not -7",
        ),
        ({"ssm_cfg": {"headdim": 0}}, "ssm_cfg.headdim: must be at least 1, not 0"),
        ({"pad_token_id": None}, "pad_token_id: None"),
        ({"vocab_size": 6}, "vocab_size: must be greater than the ids.*not 6"),
        ({"target_ratio": 1.0}, "target_ratio: must be more than 1 position per chunk, not 1.0"),
        ({"d_intermediate": [0, 0]}, "d_intermediate: must be at least 1 for layout M1 of stage 1, not 0"),
    ],
)
def test_an_inconsistent_configuration_is_reported_with_its_field(changes, message):
    with pytest.raises(ValueError, match=message):
        LDARNetConfig.preset("tiny", **changes)


def test_an_unknown_preset_is_an_error_that_lists_the_presets():
    with pytest.raises(ValueError, match=r"preset: 'huge' is unknown.*ldarnet-2m"):
        LDARNetConfig.preset("huge")


def test_the_tokenizer_round_trips(tmp_path):
    tokenizer = DNATokenizer()
    assert tokenizer("ACGTNacgtRy")["input_ids"] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 4]
    assert tokenizer("AC[MASK]GT")["input_ids"] == [0, 1, 5, 2, 3]
    batch = tokenizer(["ACG", "A"], padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[0, 1, 2], [0, 6, 6]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert tokenizer.decode([0, 1, 2, 3, 4]) == "ACGTN"
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.vocab_size) == (6, 5, 7)
    tokenizer.save_pretrained(tmp_path)
    LDARNetConfig.preset("tiny").save_pretrained(tmp_path)
    for loaded in (DNATokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert type(loaded) is DNATokenizer
        assert loaded("ACGTNacgtRy[MASK]")["input_ids"] == tokenizer("ACGTNacgtRy[MASK]")["input_ids"]
        assert (loaded.pad_token_id, loaded.mask_token_id) == (6, 5)


@pytest.mark.parametrize(
    ("token", "number"),
    [("A", 0), ("a", 0), ("c", 1), ("g", 2), ("t", 3), ("T", 3), ("n", 4), ("N", 4), ("R", 4), ("[MASK]", 5)],
)
def test_tokens_have_the_same_ids_as_in_encoding(token, number):
    tokenizer = DNATokenizer()
    assert tokenizer.convert_tokens_to_ids(token) == number
    assert tokenizer.convert_tokens_to_ids(["G", token]) == [2, number]
    assert tokenizer(token)["input_ids"] == [number]


def test_decoding_keeps_n():
    tokenizer = DNATokenizer()
    assert tokenizer.decode([0, 4, 1, 6], skip_special_tokens=True) == "ANC"
    assert (
        tokenizer.get_special_tokens_mask([0, 1, 2, 3, 4, 5, 6], already_has_special_tokens=True) == [0] * 4 + [1] * 3
    )
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny")).eval()
    fill = pipeline("fill-mask", model=model, tokenizer=tokenizer)
    for guess in fill("ACGN[MASK]TTNNA", targets=["A", "C", "G", "T"]):
        assert guess["sequence"] == f"ACGN{guess['token_str']}TTNNA"


def test_pipeline_results_do_not_depend_on_the_batch():
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny")).eval()
    sequences = ["ACGT[MASK]ACGTA", "TT[MASK]", "ACG[MASK]TTT"]
    for task, network in (("fill-mask", model), ("feature-extraction", model.model)):
        run = pipeline(task, model=network, tokenizer=DNATokenizer())
        alone, together = [run(sequence) for sequence in sequences], run(sequences, batch_size=2)
        if task == "fill-mask":
            alone, together = ([[guess["score"] for guess in one] for one in guesses] for guesses in (alone, together))
        for one, other in zip(alone, together, strict=True):
            other = torch.tensor(other)
            torch.testing.assert_close(
                torch.tensor(one), other[:, : torch.tensor(one).shape[1]] if other.ndim == 3 else other
            )


def test_output_entries_are_per_sequence():
    """At inference, ``Trainer`` gathers the logits and no values that describe the whole batch."""
    ids, labels = torch.randint(0, 4, (3, 20)), torch.tensor([0, 1, 1])
    masked = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))
    classifier = LDARNetForSequenceClassification(LDARNetConfig.preset("tiny"))
    for model, targets in ((masked, ids), (classifier, labels)):
        out = model(ids, labels=targets)
        gathered = [name for name in out if name not in ("loss", *model.config.keys_to_ignore_at_inference)]
        assert gathered == ["logits"]
        assert len(out.boundaries) == 1
        assert out.ratio_loss > 0


@pytest.mark.parametrize("shape", [(2, 8), (2, 10), (3, 9), (18,)])
def test_a_mask_of_another_shape_is_an_error(shape):
    model = LDARNetModel(LDARNetConfig.preset("tiny"))
    with pytest.raises(ValueError, match=r"attention_mask: shape .* does not match the shape of input_ids, \(2, 9\)"):
        model(torch.zeros(2, 9, dtype=torch.long), torch.ones(shape))


def test_kernel_overrides_are_not_saved(tmp_path):
    config = LDARNetConfig.preset("tiny", ops={"ssd": "mamba-ssm"})
    LDARNetForMaskedLM(config).save_pretrained(tmp_path)
    assert config.ops == {"ssd": "mamba-ssm"}
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert loaded.config.ops == {}
    loaded(torch.zeros(1, 9, dtype=torch.long))


def test_non_nucleotide_characters_raise_a_warning():
    tokenizer = DNATokenizer()
    with pytest.warns(UserWarning, match="'U' is not a nucleotide code and was replaced by N; convert U to T"):
        assert tokenizer(["ACGT", "ACGU"])["input_ids"][1] == [0, 1, 2, 4]
    with pytest.warns(UserWarning, match="'L' is not a nucleotide code and was replaced by N; is this DNA"):
        tokenizer.encode("MKVLLPSYE")
    with pytest.raises(ValueError, match="text input must be of type"):
        tokenizer(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tokenizer("acgtnNRYSWKMBDHVryswkmbdhv[MASK][PAD]")["input_ids"] == [0, 1, 2, 3] + [4] * 22 + [5, 6]
