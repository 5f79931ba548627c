"""Base classification: one class per base."""

import csv
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.alphabet import IGNORE_INDEX, encode
from ldarnet.comparison.compare import find_results, write_comparison
from ldarnet.comparison.pairs import Resamples
from ldarnet.comparison.reading import read_arms
from ldarnet.errors import UserError
from ldarnet.finetuning.arms.cnn import BaseCNN
from ldarnet.finetuning.base_kmers import BaseKmers
from ldarnet.finetuning.predict import Classifier
from ldarnet.finetuning.report import write_finetuning_report
from ldarnet.finetuning.run import finetune_on
from ldarnet.finetuning.targets import BaseTargets
from ldarnet.model import write_model
from ldarnet.runtime.distributed import World
from ldarnet.tasks import open_task
from tests.support.planted import lines, predictions, read_config, result, run, stop, write_config, write_labeled

Command = Callable[..., tuple[int, str, str]]
BASES = ("task_type=base_classification", "folds.stratified=false", "folds.only=[0]")
BOTH_STRANDS = ("evaluation.strands=2", "training.reverse_complement=true")
TRAINED = (*BASES, *BOTH_STRANDS, "training.epochs=3", "data.max_length=44")


def configured(folder: Path) -> Path:
    path = write_config(folder)
    write_labeled(folder / "train.csv", 96, 1)
    write_labeled(folder / "test.csv", 40, 2)
    return path


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a network."""
    path = configured(tmp_path_factory.mktemp("bases"))
    return run(world, path, *TRAINED)


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


def test_predict_writes_the_classes_of_bases_in_regions_as_bed(
    ldarnet: Command, finished: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    contigs = {name: "".join(rng.choice(list("ACGT"), 90)) for name in ("chrA", "chrB")}
    (tmp_path / "genome.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in contigs.items()))
    regions = [("chrB", 5, 25), ("chrA", 10, 60), ("chrB", 40, 80)]
    (tmp_path / "regions.bed").write_text("".join(f"{name}\t{start}\t{end}\n" for name, start, end in regions))
    files = [tmp_path / "genome.fa", "--bed", tmp_path / "regions.bed", "--out", tmp_path / "out.bed"]
    assert ldarnet("predict", finished, *files)[0] == 0
    found = {}
    for line in (tmp_path / "out.bed").read_text().splitlines():
        contig, start, end, name, score, strand = line.split("\t")
        assert strand == "." and 500 <= int(score) <= 1000
        found |= {(contig, base): name for base in range(int(start), int(end))}
    expected = {}
    for contig, start, end in regions:
        ((_, probabilities),) = Classifier(finished).predict([("one", contigs[contig][start:end])])
        first = start + (end - start - len(probabilities)) // 2
        expected |= {(contig, first + base): str(label) for base, label in enumerate(probabilities.argmax(1))}
    assert len(expected) == 20 + 44 + 40 and found == expected


def test_predict_writes_no_intervals_of_the_class_none(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, file = Classifier(finished), io.StringIO()
    classifier.classes[0] = "none"
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3], [0.1, 0.9]])
    monkeypatch.setattr(classifier, "predict", lambda records, *rest: ((name, probabilities) for name, _ in records))
    classifier.write_bed([("chr1", 100, "ACGTA")], file)
    assert file.getvalue() == "chr1\t101\t103\t1\t700\t.\nchr1\t104\t105\t1\t900\t.\n"
    assert classifier.note().endswith("predicted intervals: 1 2")


def test_reports_and_comparisons_have_the_metrics_of_bases(finished: Path, tmp_path: Path) -> None:
    assert write_finetuning_report(finished, tmp_path / "report.html") == 1
    page = (tmp_path / "report.html").read_text()
    assert "AUPRC (macro)" in page and "precision and recall" in page
    write_comparison({"one": find_results(finished), "two": find_results(finished)}, tmp_path / "compared")
    with (tmp_path / "compared/results.csv").open() as file:
        assert "macro_auprc" in {row["metric"] for row in csv.DictReader(file)}


def test_a_resumed_run_equals_an_uninterrupted_one(world: World, finished: Path, tmp_path: Path) -> None:
    config = read_config(finished.parent / "config.yaml", *TRAINED, f"run.dir={tmp_path / 'stopped'}")
    stop(world, config, after=8)  # in the second epoch
    assert finetune_on(world, config).finished
    assert lines(config.run.dir) == lines(finished)
    assert predictions(config.run.dir) == predictions(finished)


def test_differences_have_intervals_over_resampled_sequences(world: World, finished: Path, tmp_path: Path) -> None:
    path = finished.parent / "config.yaml"
    cnn = ("model.baseline=cnn", "training.epochs=2", "optimizer.lr=1e-3", "data.max_length=44")
    other = run(world, path, *BASES, *cnn, f"run.dir={tmp_path / 'cnn'}")
    arms = {"network": find_results(finished), "cnn": find_results(other)}
    write_comparison(arms, tmp_path / "compared")
    compared = read_arms(arms)
    left, right = (compared.get(arm, compared.tasks[0]) for arm in arms)
    assert left is not None and right is not None
    interval = Resamples(lambda count: None).interval(left, right, [0])
    assert interval is not None
    difference = result(finished)["test"]["mcc"] - result(other)["test"]["mcc"]
    assert interval[0] < difference < interval[1]
    assert f"{interval[0]:+.3f} to {interval[1]:+.3f}" in (tmp_path / "compared/results.md").read_text()


def test_damaged_predictions_of_bases_are_errors(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    file = tmp_path / "run/fold0/predictions.tsv"
    title, first, *rest = file.read_text().splitlines(keepends=True)
    name, label, predicted, *others = first.split("\t")
    for cells in ([name, label, predicted[1:], *others], [name, "x" + label[1:], predicted, *others]):
        file.write_text("".join([title, "\t".join(cells), *rest]))
        with pytest.raises(UserError, match=r"predictions\.tsv: line 2: damaged"):
            write_comparison(dict.fromkeys(("one", "two"), find_results(tmp_path / "run")), tmp_path / "compared")


@pytest.mark.parametrize("strands", [1, 2])
def test_kmers_learn_the_classes_of_bases(world: World, tmp_path: Path, strands: int) -> None:
    folder = run(world, configured(tmp_path), *BASES, "model.baseline=kmers", f"evaluation.strands={strands}")
    assert result(folder)["test"]["mcc"] > 0.99


def test_kmers_count_the_classes_around_a_base() -> None:
    ids, labels = [encode("ACGTN"), encode("ACG")], [np.array([0, 1, 1, 0, -100]), np.array([-100, 0, 1])]
    model = BaseKmers.fit(ids, labels, 2, k=3, pseudo_count=1.0)
    overall = np.array([3, 3]) / 6
    np.testing.assert_allclose(model.predict([encode("ACG")])[1], (overall + 1) / 3)  # seen once per class
    np.testing.assert_allclose(model.predict([encode("TTT")])[1], overall)
    np.testing.assert_allclose(model.predict([encode("ANG")]), [(overall + np.array([2, 1])) / 4] * 3)  # N or an end


def test_the_cnn_learns_the_classes_of_bases(world: World, tmp_path: Path) -> None:
    folder = run(world, configured(tmp_path), *BASES, "model.baseline=cnn", "training.epochs=4", "optimizer.lr=1e-3")
    assert result(folder)["test"]["mcc"] > 0.9


def test_the_cnn_does_not_depend_on_padding() -> None:
    torch.manual_seed(0)
    network = BaseCNN(2).double().eval()
    ids = torch.randint(0, 4, (1, 30))
    padded = torch.nn.functional.pad(ids, (0, 9), value=6)
    torch.testing.assert_close(network(padded).logits[:, :30], network(ids).logits)


@pytest.mark.parametrize(
    ("auroc", "message"),
    [(0.5, "every base is predicted as '0': nothing was learned"), (0.8, "'0', though validation AUROC .* is 0.80")],
)
def test_predictions_of_one_class_are_described(auroc: float, message: str) -> None:
    predictions = [np.array([[0.9, 0.1], [0.6, 0.4]])]
    found = BaseTargets(["0", "1"]).nothing_learned(np.array(predictions), {"mcc": 0.0, "macro_auroc": auroc})
    assert found is not None and re.search(message, found)
    assert BaseTargets(["0", "1"]).nothing_learned(np.array(predictions)[:, :, ::-1], {"mcc": 0.2}) is not None
    varied = np.array([[[0.9, 0.1], [0.4, 0.6]]])
    assert BaseTargets(["0", "1"]).nothing_learned(varied, {"mcc": 0.2, "macro_auroc": auroc}) is None


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
        (("training.mode=probe",), "cannot learn task_type=base_classification, only classification, regression"),
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
        ("one\t5\t6\t.", r"labels\.bed: '\.' is not a class; column 4 must contain the class of"),
        ("one\t5\t6\ta,b", r"labels\.bed: 'a,b' is not a class"),
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


def test_intervals_on_contigs_label_sequences_that_are_named_after_their_place(tmp_path: Path) -> None:
    (tmp_path / "train.fa").write_text(">chr1:101-108\nACGTACGT\n>chr1:111-114\nACGT\n>chr1:111-115\nACGT\n")
    (tmp_path / "labels.bed").write_text("chr1\t90\t102\tmotif\nchr1\t107\t112\tsite\nchr2\t0\t9\tmotif\n")
    data = open_task(None, train=tmp_path / "train.fa", bed=tmp_path / "labels.bed", task_type="base_classification")
    assert data.classes == ["none", "motif", "site"]
    assert [list(label) for label in data.train.labels] == [[1, 1, 0, 0, 0, 0, 0, 2], [2, 2, 0, 0], [0, 0, 0, 0]]
    assert any("1 interval of" in note for note in data.notes)


@pytest.mark.parametrize(("label", "conflicts"), [("1100", 0), ("0011", 1)])
def test_labels_of_duplicates_on_the_other_strand_are_compared_in_reverse(
    tmp_path: Path, label: str, conflicts: int
) -> None:
    (tmp_path / "train.csv").write_text(f"sequence,label\nAACA,0011\nTGTT,{label}\n")
    data = open_task(None, train=tmp_path / "train.csv", task_type="base_classification")
    assert any(f"duplicate an earlier one (on either strand), {conflicts} of them" in note for note in data.notes)


def test_a_bed_file_without_base_classification_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("sequence,label\nACGT,0\nACGT,1\n")
    with pytest.raises(UserError, match=r"data\.bed=labels\.bed: only used with data\.train and task_type=base"):
        open_task(None, train=tmp_path / "train.csv", bed=Path("labels.bed"))
