"""Usual ways to call Hugging Face models: forward arguments, PEFT, accelerate, collators, export."""

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, DataCollatorForLanguageModeling

from ldarnet import (
    DNATokenizer,
    LDARNetConfig,
    LDARNetForMaskedLM,
    LDARNetForSequenceClassification,
    LDARNetForTokenClassification,
    LDARNetModel,
)
from ldarnet.model import write_model

KINDS = (LDARNetModel, LDARNetForMaskedLM, LDARNetForSequenceClassification, LDARNetForTokenClassification)
NESTED = {
    "arch_layout": ["m1", ["M1", ["M1"], "m1"], "m1"],
    "d_model": [16, 24, 32],
    "d_intermediate": [0, 32, 32],
    "attn_cfg": {},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def build(kind, **changes):
    torch.manual_seed(0)
    return kind(LDARNetConfig.preset("tiny", **changes)).eval()


def batch(labels: bool = False) -> dict[str, torch.Tensor]:
    encoded = dict(DNATokenizer()(["ACGTTGCAACGTAGCTAACGTT", "GATTA"], padding=True, return_tensors="pt"))
    return encoded | ({"labels": torch.tensor([0, 1])} if labels else {})


@every_kind
@pytest.mark.parametrize("changes", [{}, NESTED, {"arch_layout": ["m1t1"], "d_model": [16], "d_intermediate": [0]}])
def test_hidden_states_are_the_outputs_of_all_stacks(changes, kind):
    if "arch_layout" in changes and changes is not NESTED:
        changes["attn_cfg"] = {"num_heads": [2], "rotary_emb_dim": [8], "window_size": [7]}
    model, inputs = build(kind, **changes), batch()
    plain, out = model(**inputs), model(**inputs, output_hidden_states=True)
    assert plain.hidden_states is None
    states, stages = out.hidden_states, model.config.num_stages
    assert len(states) == 1 + 2 * stages - 1
    assert torch.equal(states[-1], out.last_hidden_state)
    assert torch.equal(states[-1], plain.last_hidden_state)
    backbone = model.base_model
    real = inputs["attention_mask"].bool()
    assert torch.equal(states[0][real], backbone.embeddings(inputs["input_ids"])[real])
    lengths = [real.sum(1)] + [stage.mask.sum(1) for stage in out.boundaries]
    for number, state in enumerate(states[1:]):
        stage = min(number, 2 * (stages - 1) - number)
        assert state.shape[0] == 2
        assert state.shape[2] == model.config.d_model[stage]
        for row, length in zip(state, lengths[stage].tolist(), strict=True):
            assert row[:length].abs().sum(-1).all()
            assert not row[length:].any()


def test_hidden_states_do_not_depend_on_the_batch():
    model, tokenizer = build(LDARNetModel, **NESTED), DNATokenizer()
    together = model(**batch(), output_hidden_states=True).hidden_states
    alone = model(**tokenizer("GATTA", return_tensors="pt"), output_hidden_states=True).hidden_states
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one[0], other[1, : one.shape[1]])


@every_kind
def test_hidden_states_and_tuples_are_settings_of_a_saved_model_too(kind, tmp_path):
    build(kind).save_pretrained(tmp_path)
    model = kind.from_pretrained(tmp_path, output_hidden_states=True)
    assert len(model(**batch()).hidden_states) == 4
    assert model(**batch(), output_hidden_states=False).hidden_states is None
    entries = kind.from_pretrained(tmp_path, return_dict=False)(**batch())
    assert isinstance(entries, tuple)
    assert torch.equal(entries[0], model(**batch())[0])


@every_kind
def test_a_tuple_has_the_entries_of_the_output(kind):
    model = build(kind)
    inputs = batch(labels=kind is LDARNetForSequenceClassification)
    for options in ({}, {"output_hidden_states": True}):
        expected = model(**inputs, **options, return_dict=True)
        entries = model(**inputs, **options, return_dict=False)
        assert len(entries) == len(expected)
        assert all(torch.equal(one, other) for one, other in zip(entries[:1], expected.to_tuple(), strict=False))


@every_kind
def test_attention_weights_are_refused_only_if_requested(kind):
    model = build(kind)
    model(**batch(), output_attentions=False, output_hidden_states=False, inputs_embeds=None)
    with pytest.raises(ValueError, match="output_attentions: LDARNet does not return attention weights"):
        model(**batch(), output_attentions=True)
    with pytest.raises(ValueError, match="output_attentions"):
        build(kind, output_attentions=True)(**batch())


@every_kind
def test_embeddings_can_replace_ids(kind):
    model, inputs = build(kind), batch()
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    out = model(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"])
    assert torch.equal(out[0], model(**inputs)[0])
    alone = model(inputs_embeds=embeddings[:1])
    assert torch.equal(alone[0], model(inputs["input_ids"][:1])[0])
    for wrong in ({}, {"input_ids": inputs["input_ids"], "inputs_embeds": embeddings}):
        with pytest.raises(ValueError, match="give exactly one of input_ids and inputs_embeds"):
            model(**wrong)


@every_kind
@pytest.mark.parametrize("mask", ["ones", "right", None])
def test_padding_is_padding_whatever_the_mask_says(mask, kind):
    model, inputs = build(kind), batch()
    ids = inputs["input_ids"]
    masks = {"ones": torch.ones_like(ids), "right": inputs["attention_mask"], None: None}
    out, alone = model(ids, masks[mask]), model(ids[1:, :5])
    torch.testing.assert_close(out.last_hidden_state[1:, :5], alone.last_hidden_state)
    if kind is LDARNetForSequenceClassification:
        torch.testing.assert_close(out.logits[1:], alone.logits)


def test_a_mask_can_hide_more_than_the_padding():
    model, inputs = build(LDARNetModel), batch()
    mask = inputs["attention_mask"].clone()
    mask[0, 10:] = 0
    out = model(inputs["input_ids"], mask).last_hidden_state
    torch.testing.assert_close(out[:1, :10], model(inputs["input_ids"][:1, :10]).last_hidden_state)


def test_a_collator_that_sees_padded_ids_gives_the_right_logits():
    tokenizer, model = DNATokenizer(), build(LDARNetForMaskedLM)
    short = "ACGTTGCAACGTAGCTA"
    padded = tokenizer([short, short * 3], padding="longest")["input_ids"]
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.0001)
    mask = collator([{"input_ids": ids} for ids in padded])["attention_mask"]
    together = model(torch.tensor(padded), mask).logits[0, : len(short)]
    torch.testing.assert_close(together, model(**tokenizer(short, return_tensors="pt")).logits[0])


def test_a_collator_never_masks_n_and_padding():
    tokenizer = DNATokenizer()
    torch.manual_seed(0)
    for _ in range(20):
        rows = [{"input_ids": tokenizer(sequence)["input_ids"]} for sequence in ("ACGTNNNNACGT", "NAC")]
        out = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.9)(rows)
        assert not out["labels"].eq(4).any()
        assert not out["labels"].eq(6).any()
        assert out["attention_mask"].sum(1).tolist() == [12, 3]
        assert (out["input_ids"][1, 3:] == 6).all()


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_does_not_change_gradients(reentrant):
    inputs = batch()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    results = []
    for enabled in (False, True):
        model = build(LDARNetForMaskedLM).train()
        if enabled:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        results.append([loss.detach(), *(weight.grad for weight in model.parameters())])
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("task_type", ["SEQ_CLS", "FEATURE_EXTRACTION", None])
def test_a_fresh_lora_adapter_changes_nothing(task_type):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    kind = LDARNetModel if task_type == "FEATURE_EXTRACTION" else LDARNetForSequenceClassification
    base, inputs = build(kind), batch()
    expected = base(**inputs)[0]
    config = peft.LoraConfig(task_type=task_type, r=2, target_modules=["in_proj", "out_proj"])
    assert torch.equal(peft.get_peft_model(base, config).eval()(**inputs)[0], expected)


@pytest.mark.parametrize(
    ("task_type", "kind"), [("SEQ_CLS", LDARNetForSequenceClassification), ("TOKEN_CLS", LDARNetForTokenClassification)]
)
def test_lora_trains_every_linear_layer_and_can_be_saved_and_merged(task_type, kind, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    layers = ["in_proj", "out_proj", "qkv_proj", "fc1", "fc2", "q_proj", "k_proj", "residual_proj"]
    targets = "all-linear" if task_type == "SEQ_CLS" else layers
    base, inputs = build(kind), batch(labels=kind is LDARNetForSequenceClassification)
    inputs.setdefault("labels", (inputs["input_ids"] > 1).long().masked_fill(inputs["attention_mask"] == 0, -100))
    model = peft.get_peft_model(base, peft.LoraConfig(task_type=task_type, r=2, target_modules=targets)).train()
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.05)
    for _ in range(4):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
    assert [name for name, weight in model.named_parameters() if "lora_" in name and not weight.grad.any()] == []
    expected = model.eval()(**inputs).logits
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build(kind), tmp_path).eval()
    torch.testing.assert_close(again(**inputs).logits, expected)
    torch.testing.assert_close(again.merge_and_unload()(**inputs).logits, expected)


@pytest.mark.parametrize("place", ["auto", "cpu", {"": "disk"}, {"model": "disk", "lm_head": "cpu"}], ids=str)
def test_accelerate_places_and_offloads_the_model(place, tmp_path):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    expected = build(LDARNetForMaskedLM)
    write_model(expected, tmp_path / "export")
    model = AutoModelForMaskedLM.from_pretrained(
        tmp_path / "export", device_map=place, offload_folder=tmp_path / "offload"
    )
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch()).logits, expected(**batch()).logits)


def test_export_is_refused_with_its_reason():
    model, ids = build(LDARNetForMaskedLM), batch()["input_ids"]
    reason = "torch.export, ONNX and torch.jit.trace do not support LDARNet"
    for export in (torch.export.export, torch.jit.trace):
        with pytest.raises(NotImplementedError, match=reason):
            export(model, (ids,))
    if importlib.util.find_spec("onnxscript"):
        with pytest.raises(Exception, match=reason):
            torch.onnx.export(model, (ids,), "model.onnx")


def test_trainer_fine_tunes_a_classifier(tmp_path: Path):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    from transformers import Trainer, TrainingArguments

    tokenizer, model = DNATokenizer(), build(LDARNetForSequenceClassification)
    rows = [{**tokenizer(text), "labels": label} for text, label in {"ACGTACGT": 0, "GGGGCCCCGGG": 1}.items()] * 4
    arguments = TrainingArguments(str(tmp_path / "run"), max_steps=2, save_steps=2, report_to="none", use_cpu=True)
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)
    trainer.train()
    assert trainer.predict(rows).predictions.shape == (8, 2)
    saved = AutoModel.from_pretrained(tmp_path / "run/checkpoint-2")
    assert torch.equal(saved.embeddings.weight, model.model.embeddings.weight)
