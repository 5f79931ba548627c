"""Untrusted and damaged model files: hashes, non-finite weights, malformed configurations, pickles."""

import json
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from ldarnet import (
    DNATokenizer,
    LDARNetConfig,
    LDARNetForMaskedLM,
    load_published_checkpoint,
    save_published_checkpoint,
)
from ldarnet.errors import UserError
from ldarnet.model import load_backbone, load_model, write_model

IDS = torch.arange(24).remainder(4)[None]
FILES = ("config.json", "manifest.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
CODE = ("README.md", "layers_ldarnet.py", "modeling_ldarnet.py")
LOADERS = {
    "load_model": lambda folder, **options: load_model(folder, LDARNetForMaskedLM, **options),
    "load_backbone": load_backbone,
    "from_pretrained": LDARNetForMaskedLM.from_pretrained,
    "AutoModel": AutoModel.from_pretrained,
    "AutoModelForMaskedLM": AutoModelForMaskedLM.from_pretrained,
}
every_loader = pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    write_model(LDARNetForMaskedLM(LDARNetConfig.preset("tiny")), tmp_path / "export")
    return tmp_path / "export"


def flip(file: Path, position: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(position * (len(content) - 1))] ^= 1
    file.write_bytes(content)


def error_of(action) -> str:
    """Message of the UserError that the action raises: one line."""
    with pytest.raises(UserError) as raised:
        action()
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def change_config(folder: Path, **changes) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    (folder / "manifest.json").unlink(missing_ok=True)


def change_weights(folder: Path, name: str, change) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name] = change(weights[name])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "manifest.json").unlink(missing_ok=True)


def test_an_export_lists_the_hashes_of_its_files(folder):
    assert {path.name for path in folder.iterdir()} == {*FILES, *CODE}
    assert json.loads((folder / "manifest.json").read_text())["files"].keys() == {*FILES, *CODE} - {"manifest.json"}


@every_loader
@pytest.mark.parametrize("position", [0.5, 1.0])
@pytest.mark.parametrize("name", sorted(set(FILES) - {"manifest.json"}))
def test_one_flipped_bit_is_refused(name, position, load, folder):
    flip(folder / name, position)
    if name == "config.json" and load in (LOADERS["AutoModel"], LOADERS["AutoModelForMaskedLM"]):
        with pytest.raises((UserError, OSError, ValueError)):  # AutoConfig parses the file before our checks
            load(folder)
        return
    assert f"{folder / name}: SHA-256 differs from manifest.json" in error_of(lambda: load(folder))


@every_loader
def test_a_damaged_manifest_or_a_missing_file_is_refused(load, folder):
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json: file is missing" in error_of(lambda: load(folder))
    (folder / "manifest.json").write_text('{"files": {"../x": {"size": 1}}}')
    assert "manifest.json: damaged" in error_of(lambda: load(folder))


@every_loader
def test_verification_can_be_skipped(load, folder, monkeypatch):
    flip(folder / "model.safetensors", 1.0)
    load(folder, verify=False)
    monkeypatch.setenv("LDARNET_VERIFY", "0")
    load(folder)
    error_of(lambda: load(folder, verify=True))


@every_loader
def test_a_folder_without_manifest_is_loaded(load, folder):
    (folder / "manifest.json").unlink()
    flip(folder / "model.safetensors", 1.0)
    load(folder)


def test_saving_into_an_export_renews_its_hashes(folder):
    model = load_model(folder, LDARNetForMaskedLM)
    torch.nn.init.ones_(model.lm_head.weight)
    model.save_pretrained(folder)
    assert (load_model(folder, LDARNetForMaskedLM).lm_head.weight == 1).all()


@pytest.mark.parametrize("tied", [False, True])
def test_our_loader_and_transformers_load_the_same_model(tied, tmp_path):
    write_model(LDARNetForMaskedLM(LDARNetConfig.preset("tiny", tie_word_embeddings=tied)), tmp_path / "export")
    ours, theirs = (LOADERS[name](tmp_path / "export") for name in ("load_model", "from_pretrained"))
    assert torch.equal(ours(IDS).logits, theirs.eval()(IDS).logits)
    assert (ours.lm_head.weight is ours.model.embeddings.weight) == tied
    assert not ours.training
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in ours.parameters())
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@every_loader
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_weights_are_refused(value, load, folder):
    name = "model.backbone.router.q_proj.weight"
    change_weights(folder, name, lambda weight: weight.index_fill(0, torch.tensor([3]), value))
    assert f"{name.removeprefix('model.')}' contains NaN or infinity" in error_of(lambda: load(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: weight.to(torch.int8), "has dtype torch.int8"),
        (lambda weight: weight.bool(), "has dtype torch.bool"),
        (lambda weight: weight[:3], "has shape (3, 16), but the config expects (7, 16)"),
        (lambda weight: weight[0, 0], "has shape (), but"),
    ],
)
def test_weights_of_another_kind_are_refused(change, message, folder):
    change_weights(folder, "lm_head.weight", lambda weight: change(weight).contiguous())
    found = error_of(lambda: load_model(folder, LDARNetForMaskedLM))
    assert "tensor 'lm_head.weight' " + message in found


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b'{"model_type": "ldarnet", "d_mo',
        b'{"model_type": "ld\xff"}',
        b'"\\ud800"',
        b"[]",
        b"7",
        b"null",
        b"{}",
        b'{"model_type": ["ldarnet"]}',
        b'{"model_type": "bert"}',
        b'{"model_type": "ldarnet", "d_model": ' + b"[" * 10**5,
        b'{"model_type": "ldarnet", "vocab_size": ' + b"9" * 5000 + b"}",
        b'{"model_type": "ldarnet", "target_ratio": 1e999}',
        b'{"model_type": "ldarnet", "target_ratio": NaN}',
    ],
)
def test_a_malformed_configuration_file_is_one_line(content, folder):
    (folder / "config.json").write_bytes(content)
    (folder / "manifest.json").unlink()
    assert error_of(lambda: load_backbone(folder)).startswith(f"{folder / 'config.json'}: ")


WRONG = ("x", -1, 10**30, 1.5, True, None, [], {}, [[[]]], ["x"], {"x": 1}, [10**12, 10**12], "../../x", [None], 1e300)


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_any_value_of_any_key_loads_or_is_one_line(value, folder):
    original = json.loads((folder / "config.json").read_text())
    others = {"id2label": 0, "num_labels": 0, "label2id": 0, "problem_type": 0, "output_hidden_states": 0, "ops": 0}
    others |= {"cropped_to": 0, "strands": 0, "return_dict": 0, "use_cache": 0, "torch_dtype": 0, "auto_map": 0}
    others |= {"quantization_config": 0, "per_layer_config": 0, "attn_implementation": 0, "is_encoder_decoder": 0}
    refused = {}
    for key in original | others:
        (folder / "config.json").write_text(json.dumps(original | {key: value}))
        (folder / "manifest.json").unlink(missing_ok=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load_backbone(folder)
        except UserError as error:
            refused[key] = str(error)
    assert all(str(folder) in message and "\n" not in message for message in refused.values())
    assert {"arch_layout", "d_model", "ssm_cfg", "model_type"} - {"ssm_cfg" if value == {} else ""} <= refused.keys()


@pytest.mark.parametrize("key", ["model_type", "d_model", "arch_layout", "attn_cfg"])
def test_a_missing_key_that_the_weights_need_is_one_line(key, folder):
    content = json.loads((folder / "config.json").read_text())
    del content[key]
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "manifest.json").unlink()
    assert str(folder) in error_of(lambda: load_backbone(folder))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"arch_layout": ["m100000000", ["M1"], "m1"]}, "arch_layout"),
        ({"arch_layout": ["m1t1", ["M" + "9" * 5000], "m1"]}, "arch_layout"),
        ({"d_model": [10**9, 10**9]}, "d_model.0"),
        ({"d_intermediate": [0, 10**9]}, "d_intermediate.1"),
        ({"ssm_cfg": {"d_state": 10**9}}, "ssm_cfg.d_state"),
        ({"vocab_size": 10**12}, "vocab_size"),
        ({"num_labels": 10**10}, "num_labels"),
        ({"id2label": {"5": "x"}}, "id2label"),
        ({"id2label": {"x": "x"}}, "id2label"),
        ({"dtype": "load"}, "dtype"),
        ({"strands": 3}, "strands"),
    ],
)
def test_values_out_of_range_are_refused_with_their_field(changes, field, folder):
    change_config(folder, **changes)
    assert error_of(lambda: load_backbone(folder)).startswith(f"{folder / 'config.json'}: {field}")


def test_a_layout_of_too_many_stages_is_refused(folder):
    layout = ["M1"]
    for _ in range(100):
        layout = ["m1", layout, "m1"]
    change_config(folder, arch_layout=layout)
    assert "arch_layout: more than 16 stages" in error_of(lambda: load_backbone(folder))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attn_implementation", "some-organization/kernel"),
        ("_attn_implementation", "some-organization/kernel"),
        ("experts_implementation", "some-organization/kernel"),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
        ("auto_map", {"AutoModel": "some-organization/code--modeling.Model", "AutoConfig": "x.Y"}),
        ("trust_remote_code", True),
        ("fusion_config", {"patch_embeddings": True}),
        ("per_layer_config", {"0": {"d_model": 3}}),
        ("rope_scaling", {"rope_type": "x"}),
        ("ops", {"ssd": "mamba-ssm"}),
    ],
)
@every_loader
def test_keys_that_select_other_code_have_no_effect(load, key, value, folder):
    expected = load(folder).eval()(IDS)[0]
    change_config(folder, **{key: value})
    with pytest.warns(UserWarning, match=f"config.json: ignored unknown keys '{key}'"):
        model = load(folder).eval()
    assert torch.equal(model(IDS)[0], expected)
    assert getattr(model.config, key, None) != value


SETTINGS = ("padding_side", "truncation_side", "model_max_length", "mask_token", "pad_token", "model_input_names")
SETTINGS += ("added_tokens_decoder", "extra_special_tokens", "vocab_file", "gguf_file", "tokenizer_file", "auto_map")


@pytest.mark.parametrize("value", [*WRONG, {"0": {"content": 3}}, {"5": 5}], ids=repr)
def test_any_value_in_the_tokenizer_files_loads_or_is_one_line(value, folder):
    (folder / "manifest.json").unlink()
    for name, keys in {
        "tokenizer_config.json": SETTINGS,
        "tokenizer.json": ("added_tokens", "normalizer", "pre_tokenizer", "decoder", "model", "padding", "truncation"),
    }.items():
        original = (folder / name).read_text()
        for key in (*keys, ""):
            (folder / name).write_text(json.dumps(json.loads(original) | {key: value} if key else value))
            try:
                tokenizer = DNATokenizer.from_pretrained(folder)
                assert tokenizer("ACGTNacgt")["input_ids"] == [0, 1, 2, 3, 4, 0, 1, 2, 3]
            except UserError as error:
                message = str(error)
                assert "\n" not in message and message.startswith(str(folder))
        (folder / name).write_text(original)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "content", [b"", b"\0", b"\xff", b"[" * 10**5, b"{", b"[]", b"null"], ids=lambda text: text[:9]
)
def test_a_malformed_tokenizer_file_is_one_line(content, name, folder):
    (folder / "manifest.json").unlink()
    (folder / name).write_bytes(content)
    assert error_of(lambda: DNATokenizer.from_pretrained(folder)).startswith(f"{folder / name}: damaged (")


def test_a_tokenizer_with_another_vocabulary_is_refused(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {"A": 3, "T": 0}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert "SHA-256 differs" in error_of(lambda: DNATokenizer.from_pretrained(folder))
    assert "not the LDARNet vocabulary" in error_of(lambda: DNATokenizer.from_pretrained(folder, verify=False))
    assert "not the LDARNet vocabulary" in error_of(lambda: AutoTokenizer.from_pretrained(folder, verify=False))
    DNATokenizer().save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder)("AT")["input_ids"] == [0, 3]
    load_backbone(folder)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    save_published_checkpoint(LDARNetForMaskedLM(LDARNetConfig.preset("tiny")), tmp_path / "published.pt")
    return tmp_path / "published.pt"


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_refused_pickle_gets_no_advice_to_execute_it(published, capsys):
    content = torch.load(published, weights_only=True)
    torch.save(content | {"step": Evil()}, published)
    for write in (None, pickle.dumps(Evil()), b"\x80\x04garbage"):
        if write is not None:
            published.write_bytes(write)
        message = error_of(lambda: load_published_checkpoint(published))
        assert "weights_only" not in message
        assert "not a readable PyTorch checkpoint" in message
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.update({"lm_head.weight": 7}), "'lm_head.weight': its value is not a tensor"),
        (lambda model: model.update({5: torch.zeros(1)}), "'5': its key is not a string"),
        (lambda model: model["lm_head.weight"].fill_(float("nan")), "'lm_head.weight' contains NaN or infinity"),
        (lambda model: model.update({"lm_head.weight": torch.zeros(7, 16, dtype=torch.int8)}), "torch.int8"),
    ],
)
def test_malformed_weights_of_a_published_checkpoint_are_one_line(change, message, published):
    content = torch.load(published, weights_only=True)
    change(content["model"])
    torch.save(content, published)
    assert message in error_of(lambda: load_published_checkpoint(published))


@pytest.mark.parametrize("key", ["arch_layout", "d_model", "d_intermediate", "vocab_size", "ssm_cfg", "attn_cfg"])
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_any_value_in_the_configuration_of_a_published_checkpoint_is_one_line(key, value, published):
    content = torch.load(published, weights_only=True)
    content["config"][key] = value
    torch.save(content, published)
    error_of(lambda: load_published_checkpoint(published))
