"""Regression: one or several numbers per sequence."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ldarnet.comparison.compare import find_results, write_comparison
from ldarnet.errors import UserError
from ldarnet.finetuning.folds import split
from ldarnet.finetuning.predict import Classifier
from ldarnet.finetuning.report import write_finetuning_report
from ldarnet.finetuning.run import finetune_on
from ldarnet.finetuning.targets import ValueTargets
from ldarnet.runtime.distributed import World
from ldarnet.tasks import open_task
from ldarnet.tasks.metrics import scores
from tests.support.planted import lines, predictions, read_config, result, run, stop, write_config, write_values

Command = Callable[..., tuple[int, str, str]]
REGRESSION = ("task_type=regression", "folds.stratified=false", "folds.only=[0]")
TRAINED = (*REGRESSION, "training.epochs=6", "evaluation.strands=2")


def configured(folder: Path, titles: tuple[str, ...] = ("label",)) -> Path:
    path = write_config(folder)
    write_values(folder / "train.csv", 96, 1, titles)
    write_values(folder / "test.csv", 40, 2, titles)
    return path


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a network trained on one target."""
    path = configured(tmp_path_factory.mktemp("regression"))
    return run(world, path, *TRAINED)


def test_a_network_learns_values_in_their_own_units(finished: Path) -> None:
    left, rows = result(finished), predictions(finished)
    assert (left["task_type"], left["metric"], left["targets"]) == ("regression", "pearson", ["label"])
    assert list(rows[0]) == ["name", "label", "predicted", "leak_free"]
    labels, predicted = (np.array([[float(row[key])] for row in rows]) for key in ("label", "predicted"))
    found = scores(labels, predicted, "regression")
    assert {key: left["test"][key] for key in found} == pytest.approx(found, abs=1e-3)
    assert left["test"]["pearson"] > 0.8 and left["test"]["r2"] > 0.5
    assert left["test"]["loss"] == pytest.approx(
        np.mean((labels - predicted) ** 2) / training_variance(finished), rel=1e-2
    )
    low, high = left["intervals"]["pearson"]
    assert low < left["test"]["pearson"] < high
    assert lines(finished)[0]["loss"] > lines(finished)[-1]["loss"]
    assert (finished / "fold0/scatter.png").is_file() and not (finished / "fold0/roc.png").exists()
    assert "Pearson r" in (finished / "summary.txt").read_text()


def training_variance(folder: Path) -> float:
    """Variance of the labels of the training rows of fold 0 of 4, which is not stratified."""
    config = read_config(folder / "config.yaml")
    data = open_task(None, train=folder.parent / "train.csv", task_type="regression")
    train, _ = split(np.zeros(96, dtype=np.int64), [], config.folds)[0]
    return float(data.train.labels[train].var())


def test_predict_gives_the_values_of_the_run(finished: Path) -> None:
    with (finished.parent / "test.csv").open() as file:
        records = [(row["name"], row["sequence"]) for row in csv.DictReader(file)]
    classifier = Classifier(finished)
    found = dict(classifier.predict(records))
    for row in predictions(finished):
        assert found[row["name"]] == pytest.approx([float(row["predicted"])], rel=1e-4)
    table = finished.parent / "out.tsv"
    with table.open("w") as file:
        classifier.write(records[:2], file)
    assert table.read_text().splitlines()[0] == "name\tpredicted"


def test_predict_names_the_regions_of_a_genome(ldarnet: Command, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "genome.fa").write_text(f">chr1\n{'ACGT' * 30}\n")
    status, printed, _ = ldarnet("predict", finished, tmp_path / "genome.fa", "--region", "chr1:5-44")
    assert status == 0 and printed.splitlines()[1].startswith("chr1:5-44\t")
    status, _, errors = ldarnet("predict", finished, tmp_path / "genome.fa", "--region", "chr2:5-44")
    assert status == 1 and "no contig chr2" in errors


def test_the_report_shows_the_metrics_of_regression(finished: Path, tmp_path: Path) -> None:
    assert write_finetuning_report(finished, tmp_path / "report.html") == 1
    page = (tmp_path / "report.html").read_text()
    assert "Spearman rho" in page and "predictions and labels" in page and "MCC" not in page


@pytest.mark.parametrize("arm", ["model.baseline=kmers", "model.baseline=cnn", "training.mode=probe"])
def test_every_arm_learns_several_targets(world: World, tmp_path: Path, arm: str) -> None:
    path = configured(tmp_path, ("gc", "other"))
    quick = ("training.epochs=3",) if "cnn" in arm else ()
    folder = run(world, path, *REGRESSION, arm, "data.label_column=[gc,other]", *quick)
    left, rows = result(folder), predictions(folder)
    assert list(rows[0]) == ["name", "label_gc", "label_other", "predicted_gc", "predicted_other", "leak_free"]
    assert left["by_target"].keys() == {"gc", "other"}
    mean = np.mean([one["pearson"] for one in left["by_target"].values()])
    assert left["test"]["pearson"] == pytest.approx(mean) and mean > 0.7
    assert abs(np.mean([float(row["predicted_gc"]) for row in rows]) - 1050) < 15
    assert abs(np.mean([float(row["predicted_other"]) for row in rows]) + 0.005) < 0.0015


def test_runs_are_compared_with_intervals(world: World, finished: Path, tmp_path: Path) -> None:
    path = finished.parent / "config.yaml"
    other = run(world, path, *REGRESSION, "model.baseline=kmers", f"run.dir={tmp_path / 'kmers'}")
    write_comparison({"network": find_results(finished), "kmers": find_results(other)}, tmp_path / "compared")
    with (tmp_path / "compared/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["metric"] for row in rows} == {"pearson", "spearman", "r2"}
    assert "Pearson r" in (tmp_path / "compared/results.md").read_text()


def test_a_resumed_run_equals_an_uninterrupted_one(world: World, finished: Path, tmp_path: Path) -> None:
    config = read_config(finished.parent / "config.yaml", *TRAINED, f"run.dir={tmp_path / 'stopped'}")
    stop(world, config, after=8)  # in the second epoch
    assert finetune_on(world, config).finished
    assert lines(config.run.dir) == lines(finished)
    assert predictions(config.run.dir) == predictions(finished)


def test_finishing_moves_the_scale_into_the_head() -> None:
    labels = np.array([[1.0, 10.0], [3.0, 50.0], [5.0, 30.0]])
    targets, network = ValueTargets(["a", "b"]).fitted(labels), torch.nn.Module()
    network.head = torch.nn.Linear(4, 2)
    x = torch.randn(5, 4)
    before = network.head(x).detach().numpy()
    targets.finish(network)
    after = network.head(x).detach().numpy()
    np.testing.assert_allclose(after, before * labels.std(0) + labels.mean(0), rtol=1e-5)


def blank(path: Path, share: float) -> int:
    """Remove a share of the values of `other` in a CSV file; return their number."""
    rng = np.random.default_rng(3)
    with path.open(newline="") as file:
        title, *rows = list(csv.reader(file))
    chosen = rng.random(len(rows)) < share
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(title)
        table.writerows([*row[:-1], "NA"] if absent else row for row, absent in zip(rows, chosen, strict=True))
    return int(chosen.sum())


@pytest.mark.parametrize("arm", ["training.mode=full", "model.baseline=kmers", "training.mode=probe"])
def test_missing_values_are_neither_learned_nor_scored(world: World, tmp_path: Path, arm: str) -> None:
    path = configured(tmp_path, ("gc", "other"))
    missing = [blank(tmp_path / f"{split}.csv", 0.4) for split in ("train", "test")]
    quick = ("training.epochs=4",) if "full" in arm else ()
    folder = run(world, path, *REGRESSION, arm, "data.label_column=[gc,other]", *quick)
    left, rows = result(folder), predictions(folder)
    assert sum(row["label_other"] == "NA" for row in rows) == missing[1] > 0
    known = [row for row in rows if row["label_other"] != "NA"]
    labels, predicted = (np.array([[float(row[key])] for row in known]) for key in ("label_other", "predicted_other"))
    assert left["by_target"]["other"] == pytest.approx(scores(labels, predicted, "regression"), abs=1e-3)
    assert left["by_target"]["other"]["pearson"] > 0.6
    assert left["test"]["loss"] < 1 and left["intervals"]["pearson"] is not None
    write_comparison({"one": find_results(folder), "two": find_results(folder)}, tmp_path / "compared")
    assert "+0.000 to +0.000" in (tmp_path / "compared/results.md").read_text()
    data = open_task(None, train=tmp_path / "train.csv", label_column=["gc", "other"], task_type="regression")
    assert f", {missing[0]} missing)" in ValueTargets(data.classes).describe(data.train.labels)


def test_the_loss_is_the_mean_over_the_values_that_are_not_missing() -> None:
    targets = ValueTargets(["a", "b"]).fitted(np.array([[1.0, 10.0], [3.0, np.nan], [5.0, 30.0]]))
    labels = targets.tensor(np.array([[1.0, 10.0], [5.0, np.nan]]))
    outputs = torch.zeros(2, 2, requires_grad=True)
    loss = targets.loss(outputs, labels) / targets.count(labels, np.array([0, 1]))
    assert loss.item() == pytest.approx((1.5 + 1 + 1.5) / 3)  # standardized labels: -sqrt(1.5), -1, sqrt(1.5)
    loss.backward()
    assert outputs.grad is not None and outputs.grad[1, 1] == 0 and outputs.grad.isfinite().all()


def test_rows_without_any_value_are_errors(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("sequence,a,b\nACGT,0.5,\nACGT,,nan\n")
    with pytest.raises(UserError, match=r"line 3: the labels are all missing; fill it in or remove the row"):
        open_task(None, train=tmp_path / "train.csv", label_column=["a", "b"], task_type="regression")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("", r"line 3: the label is missing"),
        ("NA", r"line 3: the label is missing \('NA'\)"),
        ("high", r"line 3: the label 'high' is not a number"),
        ("inf", r"line 3: the label 'inf' is not a number"),
        ('"1,5"', r"line 3: the label '1,5' is not a number; write a decimal point"),
        ("1e40", r"line 3: the label '1e40' is larger than 1e\+30"),
    ],
)
def test_labels_that_are_not_numbers_are_errors(tmp_path: Path, cell: str, message: str) -> None:
    (tmp_path / "train.csv").write_text(f"sequence,label\nACGT,0.5\nACGT,{cell}\n")
    with pytest.raises(UserError, match=message):
        open_task(None, train=tmp_path / "train.csv", task_type="regression")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("evaluation.metric=mcc",),
            "evaluation.metric=mcc is not a metric of task_type=regression; use one of pearson",
        ),
        (("folds.stratified=true",), "folds.stratified=true: labels of task_type=regression have no classes"),
        (("task=H3", "data.train=null"), "the published task H3 is a classification task"),
        (("task_type=classification", "data.label_column=[a,b]"), "a task of type classification has one label column"),
        (("data.label_column=[label,b]",), "data.label_column=b: no such column"),
    ],
)
def test_settings_that_contradict_regression_are_errors(
    world: World, tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(world, configured(tmp_path), *REGRESSION, *overrides)


def test_equal_values_are_an_error_before_training(world: World, tmp_path: Path) -> None:
    path = configured(tmp_path)
    (tmp_path / "train.csv").write_text("sequence,label\n" + "ACGTACGTAC,1.5\n" * 20)
    with pytest.raises(UserError, match=r"rows that all have 'label' equal to 1\.5"):
        run(world, path, *REGRESSION)
