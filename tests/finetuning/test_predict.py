"""Predictions of a fine-tuned classifier, from the command line, Python and a transformers pipeline."""

import csv
import re
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.cli import main
from ldarnet.errors import UserError
from ldarnet.finetuning.predict import Classifier
from ldarnet.finetuning.run import finetune_on
from ldarnet.model import load_backbone, write_model
from tests.support.planted import predictions, read_config, write_config


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """Folder of a run of one fold with sequences cropped to 52 bases."""
    path = write_config(tmp_path_factory.mktemp("predict"))
    config = read_config(path, "folds.only=[1]", "training.epochs=1", "data.max_length=52")
    finetune_on(world, config)
    return config.run.dir


@pytest.fixture(scope="module")
def rows(run):
    """Name and bases of the test rows."""
    with (run.parent / "test.csv").open() as file:
        return [(row["name"], row["sequence"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def fasta(run, rows):
    path = run.parent / "test.fa"
    path.write_text("".join(f">{name} some words\n{bases[:30]}\n{bases[30:].lower()}\n" for name, bases in rows))
    return path


def command(monkeypatch, capsys, *arguments):
    """Exit status, stdout and stderr of the `ldarnet` command."""
    monkeypatch.setattr(sys, "argv", ["ldarnet", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), *capsys.readouterr()


@pytest.mark.parametrize("location", [".", "export", "fold1", "fold1/best"])
def test_predictions_on_a_fasta_equal_those_of_the_run(run, fasta, tmp_path, monkeypatch, capsys, location):
    out = tmp_path / "new" / "predictions.tsv"
    status, _, errors = command(monkeypatch, capsys, "predict", run / location, fasta, "--out", out)
    assert status == 0
    with out.open() as file:
        ours = list(csv.DictReader(file, delimiter="\t"))
    theirs = predictions(run, 1)
    assert [(row["name"], row["predicted"]) for row in ours] == [(row["name"], row["predicted"]) for row in theirs]
    assert [float(row["p_yes"]) for row in ours] == pytest.approx([float(row["p_yes"]) for row in theirs], abs=2e-6)
    positive = sum(row["predicted"] == "yes" for row in theirs)
    assert f"wrote {out}: 40 sequences; " in errors
    assert f"; predicted: no {40 - positive}, yes {positive}\n" in errors


def test_transformers_pipeline_gives_the_same_predictions(run, rows):
    classify = pipeline("text-classification", model=str(run / "export"))
    short = [(name, bases) for name, bases in rows if len(bases) <= 52]
    answers = classify([bases for _, bases in short], top_k=None, batch_size=4)
    ours = {row["name"]: float(row["p_yes"]) for row in predictions(run, 1)}
    theirs = [{entry["label"]: entry["score"] for entry in answer}["yes"] for answer in answers]
    assert theirs == pytest.approx([ours[name] for name, _ in short], abs=2e-6)


def test_predictions_do_not_depend_on_padding_and_batch(run, rows):
    records = [*rows, ("long", "ACGTTGCA" * 40)]
    alone, together = (Classifier(run, batch=batch, max_length=400) for batch in (1, 41))
    expected = dict(alone.predict(records))
    assert all(found == pytest.approx(expected[name], abs=1e-6) for name, found in together.predict(records))
    model = AutoModelForSequenceClassification.from_pretrained(run / "export").eval()
    ids = AutoTokenizer.from_pretrained(run / "export")(
        [bases for _, bases in records], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        probabilities = model(**ids).logits.softmax(1).numpy()
    assert probabilities == pytest.approx(np.stack(list(expected.values())), abs=1e-6)


def test_longer_sequences_are_counted_and_cropped(run):
    records = [("short", "ACGT" * 10), ("long", "A" * 10 + "ACGT" * 13 + "C" * 10)]
    as_trained = Classifier(run)
    (_, (_, cropped)) = as_trained.predict(records)
    assert as_trained.note() == "2 sequences; 1 cropped to their 52 central bases"
    whole = Classifier(run, max_length=100)
    list(whole.predict(records))
    assert whole.note() == (
        "2 sequences; 1 longer than the longest training sequence (52 bases), so the model extrapolates"
    )
    less = Classifier(run, max_length=30)
    list(less.predict(records))
    assert less.note() == "2 sequences; 2 cropped to their 30 central bases"
    ((_, center),) = Classifier(run).predict([("center", "ACGT" * 13)])
    assert cropped == pytest.approx(center, abs=1e-6)
    ((_, both),) = Classifier(run, strands=2).predict([("center", "ACGT" * 13)])
    assert both == pytest.approx(center, abs=1e-6)  # ACGT is its own reverse complement
    ((_, one), (_, other)) = Classifier(run).predict([("one", "AACGTC" * 8), ("other", "GACGTT" * 8)])
    ((_, both),) = Classifier(run, strands=2).predict([("one", "AACGTC" * 8)])
    assert both == pytest.approx((one + other) / 2)


def test_model_without_classifier_is_rejected(tmp_path, fasta, monkeypatch, capsys):
    write_model(LDARNetForMaskedLM(LDARNetConfig.preset("tiny")), tmp_path / "model")
    status, _, errors = command(monkeypatch, capsys, "predict", tmp_path / "model", fasta)
    assert status == 1
    assert errors.startswith("error: ")
    assert "the model class is LDARNetForMaskedLM, not LDARNetClassifier; fine-tune it first" in errors
    (tmp_path / "config.yaml").write_text("model: {baseline: kmers}\n")
    with pytest.raises(UserError, match=r"this run has no saved model; it has not written a checkpoint yet; run its"):
        load_backbone(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"this run has no saved model; baselines have none, and sweeps delete the weights"
    ):
        load_backbone(tmp_path)
    for folder, message in (
        (tmp_path, "model.baseline=kmers is not supported"),
        (tmp_path / "none", "none: no such folder"),
    ):
        status, _, errors = command(monkeypatch, capsys, "predict", folder, fasta)
        assert status == 1 and message in errors
    with pytest.raises(UserError, match="no such folder"):
        Classifier(tmp_path / "nothing")


def test_sequences_are_validated_as_in_training(run, tmp_path, monkeypatch, capsys):
    path = tmp_path / "my.fa"
    for bases, message in {
        "ACGU": r"my\.fa: record 'seq1': 'U' at base 4 is not a nucleotide code; replace U with T",
        "AC-GT": r"my\.fa: line 2: '-' is not a nucleotide code; remove it or write N",
    }.items():
        path.write_text(f">seq1 of mine\n{bases}\n")
        status, printed, errors = command(monkeypatch, capsys, "predict", run, path)
        assert (status, printed) == (1, "")
        assert re.search(message, errors)
    path.write_text(">seq1\nACRYTT\n>seq2\nACNnTT\n")
    _, printed, errors = command(monkeypatch, capsys, "predict", run, path)
    one, other = (line.split("\t")[1:] for line in printed.splitlines()[1:])
    assert one == other
    assert "2 sequences; 2 ambiguity codes were replaced with N" in errors
    for record, message in {
        ("x", "AC7"): "'7' at base 3",
        ("x", ""): "is empty",
    }.items():
        with pytest.raises(UserError, match=message):
            list(Classifier(run).predict([record], "my list"))
