"""Classification and regression of sequences and positions through the Hugging Face classes."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)

from ldarnet import (
    DNATokenizer,
    LDARNetConfig,
    LDARNetForMaskedLM,
    LDARNetForSequenceClassification,
    LDARNetForTokenClassification,
)
from ldarnet.errors import UserError
from ldarnet.finetuning.predict import Classifier
from ldarnet.model import load_model, write_model

SEQUENCES = ["ACGTTGCAACGTAGCT", "GATTACA"]
NESTED = {
    "arch_layout": ["m1", ["M1", ["M1"], "m1"], "m1"],
    "d_model": [16, 24, 32],
    "d_intermediate": [0, 32, 32],
    "attn_cfg": {},
}
SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


def build(kind, **changes):
    torch.manual_seed(0)
    return kind(LDARNetConfig.preset("tiny", **changes)).eval()


def batch():
    return dict(DNATokenizer()(SEQUENCES, padding=True, return_tensors="pt"))


def loss_of(model, labels):
    out = model(**batch(), labels=labels)
    return out.loss - model.config.ratio_weight * out.ratio_loss, out.logits


def test_sequence_losses_are_those_of_the_problem():
    classes = torch.tensor([2, 0])
    loss, logits = loss_of(build(LDARNetForSequenceClassification, num_labels=3), classes)
    torch.testing.assert_close(loss, F.cross_entropy(logits, classes))
    values = torch.tensor([0.5, -2.0])
    for labels in (values, values[:, None]):
        loss, logits = loss_of(build(LDARNetForSequenceClassification, num_labels=1), labels)
        torch.testing.assert_close(loss, F.mse_loss(logits[:, 0], values))
    several = torch.tensor([[1.0, torch.nan, 3.0], [torch.nan, 0.0, -1.0]])
    model = build(LDARNetForSequenceClassification, num_labels=3, problem_type=REGRESSION)
    loss, logits = loss_of(model, several)
    known = ~several.isnan()
    torch.testing.assert_close(loss, F.mse_loss(logits[known], several[known]))
    model = build(LDARNetForSequenceClassification, num_labels=3, problem_type=MULTI)
    present = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    loss, logits = loss_of(model, present)
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logits, present))


def test_padding_has_no_targets():
    """Labels at padding change nothing, whatever their value."""
    ids, lengths = batch()["input_ids"], [len(sequence) for sequence in SEQUENCES]
    real = ids != 6
    classes = torch.randint(0, 3, ids.shape)
    classes[0, 3] = -100
    loss, logits = loss_of(build(LDARNetForTokenClassification, num_labels=3), classes)
    assert logits.shape == (2, max(lengths), 3)
    scored = real & (classes != -100)
    torch.testing.assert_close(loss, F.cross_entropy(logits[scored], classes[scored]))
    values = torch.randn(ids.shape)
    values[1, 2] = torch.nan
    loss, logits = loss_of(build(LDARNetForTokenClassification, num_labels=1), values)
    scored = real & ~values.isnan()
    torch.testing.assert_close(loss, F.mse_loss(logits[scored][:, 0], values[scored]))
    present = torch.randint(0, 2, (*ids.shape, 2)).float()
    loss, logits = loss_of(build(LDARNetForTokenClassification, num_labels=2, problem_type=MULTI), present)
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logits[real], present[real]))


@pytest.mark.parametrize(
    "labels", [torch.full((2, 16), -100), torch.full((2, 16), torch.nan)], ids=["classes", "values"]
)
def test_a_batch_without_targets_has_a_finite_loss(labels):
    problem = REGRESSION if labels.is_floating_point() else SINGLE
    model = build(LDARNetForTokenClassification, num_labels=1 + (problem == SINGLE), problem_type=problem)
    loss = model(**batch(), labels=labels).loss
    loss.backward()
    assert loss.isfinite()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


@pytest.mark.parametrize("kind", [LDARNetForSequenceClassification, LDARNetForTokenClassification])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_labels": 1, "problem_type": SINGLE}, "num_labels"),
        ({"num_labels": 0}, "num_labels=0"),
        ({"num_labels": 3, "problem_type": "ranking"}, "problem_type"),
    ],
)
def test_impossible_problems_are_errors(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        kind(LDARNetConfig.preset("tiny", **changes))


@pytest.mark.parametrize(
    ("changes", "labels", "message"),
    [
        ({"num_labels": 3}, torch.ones(2, 3), "dtype torch.float32 is not supported for single_label.*give int64"),
        ({"num_labels": 3, "problem_type": MULTI}, torch.ones(2, dtype=torch.long), "give floating-point labels"),
        ({"num_labels": 3, "problem_type": MULTI}, torch.ones(2), r"shape \(2,\).*give \(2, 3\)"),
        ({"num_labels": 2, "problem_type": REGRESSION}, torch.ones(2), r"shape \(2,\).*give \(2, 2\)"),
        ({"num_labels": 1}, torch.ones(3), r"shape \(3,\).*give \(2, 1\)"),
    ],
)
def test_labels_that_do_not_match_the_problem_are_errors(changes, labels, message):
    with pytest.raises(ValueError, match=message):
        build(LDARNetForSequenceClassification, **changes)(**batch(), labels=labels)


@pytest.mark.parametrize(
    ("auto", "kind"),
    [
        (AutoModelForSequenceClassification, LDARNetForSequenceClassification),
        (AutoModelForTokenClassification, LDARNetForTokenClassification),
    ],
)
@pytest.mark.parametrize("labels", [1, 3])
def test_a_pretrained_model_becomes_a_classifier(auto, kind, labels, tmp_path):
    pretrained = build(LDARNetForMaskedLM)
    write_model(pretrained, tmp_path / "pretrained")
    model = auto.from_pretrained(tmp_path / "pretrained", num_labels=labels).eval()
    assert type(model) is kind
    assert torch.equal(model(**batch()).last_hidden_state, pretrained(**batch()).last_hidden_state)
    write_model(model, tmp_path / "classifier")
    for loaded in (
        auto.from_pretrained(tmp_path / "classifier"),
        load_model(tmp_path / "classifier", kind),
    ):
        assert type(loaded) is kind
        assert loaded.config.problem_type == (REGRESSION if labels == 1 else None)
        assert torch.equal(loaded.eval()(**batch()).logits, model(**batch()).logits)


def test_pipelines_classify_sequences_and_positions():
    names = {"id2label": {0: "no", 1: "exon", 2: "intron"}, "label2id": {"no": 0, "exon": 1, "intron": 2}}
    model, tokenizer = build(LDARNetForTokenClassification, **names), DNATokenizer()
    found = pipeline("token-classification", model=model, tokenizer=tokenizer, ignore_labels=[])(SEQUENCES[0])
    assert [entry["word"] for entry in found] == list(SEQUENCES[0])
    assert {entry["entity"] for entry in found} <= {"no", "exon", "intron"}
    model = build(LDARNetForSequenceClassification, **names)
    scores = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)([SEQUENCES[1]])[0]
    expected = model(**tokenizer(SEQUENCES[1], return_tensors="pt")).logits.softmax(-1)[0].sort(descending=True).values
    torch.testing.assert_close(torch.tensor([entry["score"] for entry in scores]), expected)
    model = build(LDARNetForSequenceClassification, num_labels=1)
    value = pipeline("text-classification", model=model, tokenizer=tokenizer)(SEQUENCES[1])[0]["score"]
    assert value == pytest.approx(model(**tokenizer(SEQUENCES[1], return_tensors="pt")).logits.item())


def test_trainer_fine_tunes_positions(tmp_path: Path):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    tokenizer, model = DNATokenizer(), build(LDARNetForTokenClassification, num_labels=2)
    rows = [{**tokenizer(text), "labels": [int(base in "GC") for base in text]} for text in SEQUENCES * 2]
    arguments = TrainingArguments(str(tmp_path), max_steps=2, save_strategy="no", report_to="none", use_cpu=True)
    collator = DataCollatorForTokenClassification(tokenizer)
    trainer = Trainer(model, arguments, collator, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    out = trainer.predict(rows)
    assert out.predictions.shape == (4, 16, 2)


def test_predict_refuses_a_multi_label_model(tmp_path):
    model = build(LDARNetForSequenceClassification, num_labels=2, problem_type="multi_label_classification")
    write_model(model, tmp_path / "model")
    with pytest.raises(UserError, match="problem_type 'multi_label_classification' has no table of predictions"):
        Classifier(tmp_path / "model")


@pytest.mark.parametrize("changes", [{}, NESTED, {"arch_layout": ["m1"], "d_model": [16], "d_intermediate": [0]}])
def test_boundaries_are_entries_of_the_output_on_request(changes):
    if changes.get("arch_layout") == ["m1"]:
        changes = changes | {"attn_cfg": {}}
    model = build(LDARNetForMaskedLM, **changes)
    ids = torch.randint(0, 4, (2, 60))
    ids[1, 40:] = 6
    plain, out = model(ids), model(ids, output_boundaries=True)
    assert plain.boundary_probability is None
    assert "boundary_mask" not in plain
    stages = model.config.num_stages - 1
    assert out["boundary_probability"].shape == out["boundary_mask"].shape == (2, 60, stages)
    assert not out.boundary_mask[1, 40:].any()
    assert len(model(ids, output_boundaries=True, return_dict=False)) == len(out)
    for sequence in range(2):
        positions = (ids[sequence] != 6).nonzero()[:, 0]
        for number, stage in enumerate(out.boundaries):
            length = int(stage.lengths[sequence])
            assert torch.equal(out.boundary_mask[sequence, positions, number], stage.mask[sequence, :length])
            found = out.boundary_probability[sequence, positions, number]
            assert torch.equal(found, stage.probability[sequence, :length])
            positions = positions[stage.mask[sequence, :length]]
        assert out.boundary_mask[sequence].sum(0).tolist() == [int(s.mask[sequence].sum()) for s in out.boundaries]


def test_boundaries_reach_trainer_and_pipelines_of_a_model_that_is_saved_with_them(tmp_path):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    write_model(build(LDARNetForSequenceClassification, output_boundaries=True), tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert model.config.output_boundaries
    tokenizer, arguments = DNATokenizer(), TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    arguments.per_device_eval_batch_size = 2
    rows = [{**tokenizer(text), "labels": number % 2} for number, text in enumerate([*SEQUENCES, "GGCC", "ACGTACGTAC"])]
    trainer = Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
    assert trainer.predict(rows).predictions.shape == (4, 2)
    logits, probability, mask = trainer.predict(rows, ignore_keys=["last_hidden_state", "hidden_states"]).predictions
    assert logits.shape == (4, 2)
    assert probability.shape[:1] == mask.shape[:1] == (4,)
    expected = model(**tokenizer("GGCC", return_tensors="pt")).boundary_probability[0].detach()
    torch.testing.assert_close(torch.from_numpy(probability[2, :4]), expected)
    run = pipeline("text-classification", model=model, tokenizer=tokenizer)
    alone, together = [run(text)[0] for text in SEQUENCES], run(SEQUENCES, batch_size=2)
    assert [one["score"] for one in alone] == pytest.approx([one["score"] for one in together], abs=1e-6)
