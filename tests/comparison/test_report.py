"""The report tells what was run, what a mean hides, and stays short with many arms."""

from pathlib import Path
from typing import Any

import pytest

from tests.comparison.test_compare import rows, write
from tests.support.made_results import make_predictions, make_run, make_tasks

USED = {
    "training.epochs": 4,
    "training.batch": 16,
    "training.precision": "fp32",
    "training.reverse_complement": False,
    "schedule.plateau": "rising",
    "optimizer.lr": 2e-3,
    "evaluation.strands": 1,
    "model.preset": "tiny",
    "data.max_length": None,
}


def settings_told(tmp_path: Path, **arms: dict[str, Any]) -> dict[str, str]:
    """The settings in the table of runs, by arm; `settings` of an arm change USED."""
    files = {
        arm: make_run(tmp_path / arm, "nt/H3", [0.5, 0.6], **changes | {"settings": USED | changes.get("settings", {})})
        for arm, changes in arms.items()
    }
    section = write(tmp_path, **files).partition("## Runs")[2]
    return {arm: rows(section, arm)[0][3] for arm in arms}


def test_runs_tell_every_setting_in_which_they_differ(tmp_path: Path) -> None:
    changed = {
        "evaluation.strands": 2,
        "training.epochs": 8,
        "training.reverse_complement": True,
        "schedule.plateau": "published",
        "data.max_length": 500,
        "folds.stratified": True,
        "model.preset": "ldarnet-2m",  # means nothing to a checkpoint, which has its own shape
    }
    told = settings_told(tmp_path, one={}, two={"settings": changed, "seed": 7})
    assert set(told["one"].split(", ")) == {
        *("lr 0.002", "batch 16", "seed 42", "strands 1", "epochs 4", "reverse_complement false"),
        *("plateau rising", "max_length null", "folds.stratified false"),
    }
    assert set(told["two"].split(", ")) == {
        *("lr 0.002", "batch 16", "seed 7", "strands 2", "epochs 8", "reverse_complement true"),
        *("plateau published", "max_length 500", "folds.stratified true"),
    }


def test_runs_tell_no_setting_that_they_did_not_use(tmp_path: Path) -> None:
    told = settings_told(
        tmp_path,
        full={},
        frozen={"mode": "probe", "settings": {"training.epochs": 2, "optimizer.lr": 0.5}},
        kmers={"arm": "kmers", "settings": {"training.epochs": 2, "training.precision": "bf16"}},
    )
    # Epochs and precision differ only where they did nothing.
    assert told == {"full": "lr 0.002, batch 16, seed 42", "frozen": "-", "kmers": "-"}


def test_runs_tell_the_shape_of_new_weights_where_two_differ(tmp_path: Path) -> None:
    new = {"arm": "random", "checkpoint_sha256": None}
    told = settings_told(tmp_path, small=new, large=new | {"settings": {"model.preset": "ldarnet-2m"}}, old={})
    assert {arm: "preset" in text for arm, text in told.items()} == {"small": True, "large": True, "old": False}


def test_a_seed_that_draws_the_rows_is_told_of_any_run(tmp_path: Path) -> None:
    told = settings_told(tmp_path, kmers={"arm": "kmers", "settings": {"data.limit": 300}})
    assert told == {"kmers": "seed 42"}


def test_folds_without_spread_have_no_interval_and_an_mcc_of_0_is_explained(tmp_path: Path) -> None:
    labels = [0, 1] * 50
    arms = {
        arm: make_run(tmp_path / arm, "nt/H3", values)
        for arm, values in {
            "constant": [0.0, 0.0, 0.0],
            "chance": [0.0, 0.5, 0.4],
            "unknown": [0.3, 0.0, 0.2],
            "good": [0.7, 0.8, 0.8],
        }.items()
    }
    make_predictions(tmp_path / "constant", labels, [[1] * 100] * 3)
    make_predictions(tmp_path / "chance", labels, [[0, 0, 1, 1] * 25, labels, labels])
    report = write(tmp_path, **arms)
    assert rows(report, "H3")[0][3] == "0.000"
    assert "± 0.000" not in report
    assert "one and the same class. **constant** on H3 (fold 0, 1, 2)." in report
    assert "no better than by chance. **chance** on H3 (fold 0)." in report
    assert "(predictions.tsv would tell). **unknown** on H3 (fold 1)." in report
    assert "**good** on" not in report


def test_two_folds_have_neither_interval_nor_test(tmp_path: Path) -> None:
    arms = {"a": make_run(tmp_path / "a", "nt/H3", [0.0, 0.484]), "b": make_run(tmp_path / "b", "nt/H3", [0.6, 0.7])}
    report = write(tmp_path, **arms)
    assert rows(report, "H3")[0][3:5] == ["0.242", "**0.650**"]
    assert rows(report, "a - b") == [["a - b", "H3", "2", "-0.408", "-"]]
    assert report.count("There is no test over folds") == 1
    assert rows(report.partition("Against the folds")[2], "H3")[0][4:] == ["paired, no test", "-", "-"]


@pytest.mark.parametrize(("folds", "columns"), [(1, 5), (2, 5), (3, 9)])
def test_many_arms_are_paired_in_one_table_a_line_for_two_arms(tmp_path: Path, folds: int, columns: int) -> None:
    tasks = ["nt/H3", "nt/H4", "nt/H3K4me1"]
    names = ["a", "b", "c", "d", "e", "f"]
    values = {arm: [0.4 + 0.05 * place + 0.01 * fold for fold in range(folds)] for place, arm in enumerate(names)}
    report = write(tmp_path, **{arm: make_tasks(tmp_path / arm, tasks, values[arm]) for arm in names})
    section = report.partition("fold by fold")[2].partition("### ")[0]
    first, _, second = section.partition("<details>")
    assert first.count("\n| ") == 2 + 15 and second.count("\n| ") == 2 + 15 * 3
    assert rows(first, "a - c") == [["a - c", "MCC", "3", "-0.100", "-0.100 to -0.100", "0", "3"]]
    assert [len(row) for row in rows(second, "e - f")] == [columns] * 3
    assert section.count("There is no test over folds") == (folds < 3)


def test_the_table_over_tasks_counts_what_test_rows_alone_would_not_make(tmp_path: Path) -> None:
    labels = [0, 1] * 50
    nearly = [1 - labels[0], *labels[1:]]
    for arm, predicted in (("a", {"nt/H3": labels, "nt/H4": labels}), ("b", {"nt/H3": [0] * 100, "nt/H4": nearly})):
        for task, classes in predicted.items():
            run = tmp_path / arm / task.replace("/", "-")
            make_run(run, task, [0.8 if arm == "a" else 0.7])
            make_predictions(run, labels, [classes])
    arms = {arm: sorted((tmp_path / arm).glob("*/fold*/result.json")) for arm in "ab"}
    first = write(tmp_path, **arms).partition("fold by fold")[2].partition("<details>")[0]
    assert rows(first, "a - b")[0][5:] == ["2 (1)", "0"]


def test_arms_that_are_not_tested_for_the_same_reason_are_named_together(tmp_path: Path) -> None:
    short = {"rows": {"train": 270, "valid": 30, "test": 1497, "test_leak_free": 900}}
    arms = {arm: make_run(tmp_path / arm, "nt/H3", [0.5, 0.6, 0.7], **short) for arm in ("a", "b")}
    assert "**a**, **b** are not tested against them: H3 trained on 300 of 13,468 rows." in write(tmp_path, **arms)
