"""Base classification: one class per base."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.alphabet import IGNORE_INDEX
from ldarnet.comparison.compare import find_results, write_comparison
from ldarnet.errors import UserError
from ldarnet.finetuning.arms.cnn import BaseCNN
from ldarnet.finetuning.predict import Classifier
from ldarnet.finetuning.report import write_finetuning_report
from ldarnet.finetuning.targets import BaseTargets
from ldarnet.model import write_model
from ldarnet.runtime.distributed import World
from ldarnet.tasks import open_task
from tests.support.planted import predictions, result, run, write_config

BASES = ("task_type=base_classification", "folds.stratified=false", "folds.only=[0]")


def write_labeled(path: Path, rows: int, seed: int) -> Path:
    """Write a CSV file that labels the bases G and C as 1, the others as 0, and the first base as unknown."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "sequence", "label"])
        for row in range(rows):
            bases = "".join(rng.choice(list("ACGT"), 40 + int(rng.integers(0, 9))))
            label = "".join("1" if base in "GC" else "0" for base in bases)
            table.writerow([f"row{seed}-{row}", bases, "." + label[1:]])
    return path


def configured(folder: Path) -> Path:
    path = write_config(folder)
    write_labeled(folder / "train.csv", 96, 1)
    write_labeled(folder / "test.csv", 40, 2)
    return path


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a network."""
    path = configured(tmp_path_factory.mktemp("bases"))
    both = ("evaluation.strands=2", "training.reverse_complement=true")
    return run(world, path, *BASES, *both, "training.epochs=3", "data.max_length=44")


def test_a_network_learns_the_classes_of_bases(finished: Path) -> None:
    left, rows = result(finished), predictions(finished)
    assert (left["task_type"], left["metric"], left["classes"]) == ("base_classification", "mcc", ["0", "1"])
    assert list(rows[0]) == ["name", "label", "predicted", "p_0", "p_1", "leak_free"]
    pairs = [(true, found) for row in rows for true, found in zip(row["label"], row["predicted"], strict=True)]
    labeled = [(true, found) for true, found in pairs if true != "."]
    assert left["test"]["accuracy"] == pytest.approx(np.mean([true == found for true, found in labeled]))
    assert left["test"]["mcc"] > 0.9
    assert sum(one["bases"] for one in left["by_class"].values()) == len(labeled)
    values = np.array([float(value) for value in rows[0]["p_1"].split(",")])
    assert rows[0]["predicted"] == "".join("1" if value > 0.5 else "0" for value in values)
    assert left["valid"]["loss"] < 0.3
    assert left["intervals"].keys() == {"mcc", "macro_f1", "accuracy"}


def test_predict_gives_the_bases_of_the_run(finished: Path) -> None:
    with (finished.parent / "test.csv").open() as file:
        records = [(row["name"], row["sequence"]) for row in csv.DictReader(file)]
    found = dict(Classifier(finished, batch=7).predict(records))
    for row in predictions(finished):
        expected = [float(value) for value in row["p_1"].split(",")]
        assert found[row["name"]][:, 1] == pytest.approx(expected, abs=2e-3)


def test_reports_and_comparisons_have_the_metrics_of_bases(finished: Path, tmp_path: Path) -> None:
    assert write_finetuning_report(finished, tmp_path / "report.html") == 1
    assert "AUPRC (macro)" in (tmp_path / "report.html").read_text()
    write_comparison({"one": find_results(finished), "two": find_results(finished)}, tmp_path / "compared")
    with (tmp_path / "compared/results.csv").open() as file:
        assert "macro_auprc" in {row["metric"] for row in csv.DictReader(file)}


def test_the_cnn_learns_the_classes_of_bases(world: World, tmp_path: Path) -> None:
    folder = run(world, configured(tmp_path), *BASES, "model.baseline=cnn", "training.epochs=4", "optimizer.lr=1e-3")
    assert result(folder)["test"]["mcc"] > 0.9


def test_the_cnn_does_not_depend_on_padding() -> None:
    torch.manual_seed(0)
    network = BaseCNN(2).double().eval()
    ids = torch.randint(0, 4, (1, 30))
    padded = torch.nn.functional.pad(ids, (0, 9), value=6)
    torch.testing.assert_close(network(padded).logits[:, :30], network(ids).logits)


def test_labels_of_reverse_complements_are_reversed() -> None:
    targets = BaseTargets(["0", "1"])
    labels = np.empty(2, dtype=object)
    labels[:] = [bytes([0, 1, 1]), bytes([255, 0])]
    rows = targets.tensor(labels)
    batch = targets.batch(rows, np.array([0, 1]), np.array([True, False]))
    assert batch.tolist() == [[1, 1, 0], [IGNORE_INDEX, 0, IGNORE_INDEX]]
    assert targets.count(rows, np.array([0, 1])) == 4
    assert targets.cropped(labels, 2).tolist() == [bytes([0, 1]), bytes([255, 0])]


def test_the_loss_is_the_mean_over_labeled_bases() -> None:
    targets = BaseTargets(["0", "1"])
    logits, labels = torch.randn(2, 3, 2), torch.tensor([[1, 1, 0], [IGNORE_INDEX, 0, IGNORE_INDEX]])
    logs = logits.log_softmax(2)
    expected = -(logs[0, 0, 1] + logs[0, 1, 1] + logs[0, 2, 0] + logs[1, 1, 0])
    torch.testing.assert_close(targets.loss(logits, labels), expected)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("010", r"line 3: the label has 3 characters, but the sequence 4 bases; write one"),
        ("0102", r"line 3: unknown class '2' at base 4; the classes of training are 0, 1"),
        ("", r"line 3: the label is missing"),
    ],
)
def test_labels_that_do_not_fit_are_errors(tmp_path: Path, label: str, message: str) -> None:
    (tmp_path / "train.csv").write_text("sequence,label\nACGT,01.0\n")
    (tmp_path / "test.csv").write_text(f"sequence,label\nACGT,0110\nACGT,{label}\n")
    with pytest.raises(UserError, match=message):
        open_task(None, train=tmp_path / "train.csv", test=tmp_path / "test.csv", task_type="base_classification")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.baseline=kmers",), "cannot learn task_type=base_classification, only classification, regression"),
        (("training.mode=probe",), "cannot learn task_type=base_classification"),
        (("folds.stratified=true",), "labels of task_type=base_classification have no classes to stratify by"),
    ],
)
def test_settings_that_contradict_base_classification_are_errors(
    world: World, tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(world, configured(tmp_path), *BASES, *overrides)


def test_a_model_that_reads_tokens_is_rejected(world: World, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"arch_layout": ["M1"], "d_model": [16], "d_intermediate": [32]}
    tokens = LDARNetConfig.preset("tiny", **shape, tokenizer={"method": "kmers", "k": 6})
    write_model(LDARNetForMaskedLM(tokens), tmp_path / "model")
    with pytest.raises(UserError, match="model: a token has several bases, so that the model cannot learn"):
        run(world, configured(tmp_path), *BASES, f"checkpoint={tmp_path / 'model'}")


def write_fasta(folder: Path, split: str, rows: int, seed: int) -> list[str]:
    """Write sequences with a motif, and return BED lines that locate it."""
    rng, lines, fasta = np.random.default_rng(seed), [], []
    for row in range(rows):
        bases, at = "".join(rng.choice(list("AT"), 40)), int(rng.integers(0, 34))
        fasta.append(f">{split}{row} some words\n{bases[:at]}GCGCGC{bases[at + 6 :]}\n")
        lines.append(f"{split}{row}\t{at}\t{at + 6}\tmotif\n")
    (folder / f"{split}.fa").write_text("".join(fasta))
    return lines


def test_classes_of_bases_are_read_from_a_bed_file(world: World, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    lines = [*write_fasta(tmp_path, "train", 60, 1), *write_fasta(tmp_path, "test", 20, 2)]
    (tmp_path / "labels.bed").write_text("".join(lines) + "elsewhere\t0\t5\tmotif\n")
    files = [f"data.{split}={tmp_path / split}.fa" for split in ("train", "test")]
    bed = f"data.bed={tmp_path / 'labels.bed'}"
    folder = run(world, path, *BASES, *files, bed, "model.baseline=cnn", "training.epochs=3", "optimizer.lr=1e-3")
    left, rows = result(folder), predictions(folder)
    assert left["classes"] == ["none", "motif"]
    assert left["test"]["macro_auprc"] > 0.9
    _, begin, end, _ = lines[60].split("\t")
    expected = ["motif" if int(begin) <= base < int(end) else "none" for base in range(40)]
    assert rows[0]["label"].split(",") == expected
    assert len(rows[0]["predicted"].split(",")) == len(rows[0]["p_motif"].split(",")) == 40
    assert any("1 interval of" in note for note in left["notes"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("one\t0\t9\tmotif", r"labels\.bed: line 2: the interval ends at 9, but 'one' has 8 bases"),
        ("one\t1\t4\tother", r"line 2: overlaps an interval of another class on 'one'"),
        ("two\t1\t4\tother", r"line 2: class 'other' does not occur in training; its classes are none, motif"),
    ],
)
def test_intervals_that_do_not_fit_are_errors(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "train.fa").write_text(">one\nACGTACGT\n")
    (tmp_path / "test.fa").write_text(">two\nACGTACGT\n")
    (tmp_path / "labels.bed").write_text(f"one\t0\t3\tmotif\n{line}\n")
    with pytest.raises(UserError, match=message):
        open_task(
            None,
            train=tmp_path / "train.fa",
            test=tmp_path / "test.fa",
            bed=tmp_path / "labels.bed",
            task_type="base_classification",
        )


def test_a_bed_file_without_base_classification_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("sequence,label\nACGT,0\nACGT,1\n")
    with pytest.raises(UserError, match=r"data\.bed=labels\.bed: only used with data\.train and task_type=base"):
        open_task(None, train=tmp_path / "train.csv", bed=Path("labels.bed"))
