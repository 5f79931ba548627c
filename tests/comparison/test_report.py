"""Runs table, zero-MCC note, and tables for many arms in the report."""

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


def shown_settings(tmp_path: Path, **arms: dict[str, Any]) -> dict[str, str]:
    """Settings that the runs table shows for each arm; the `settings` of an arm override `USED`."""
    files = {
        arm: make_run(tmp_path / arm, "nt/H3", [0.5, 0.6], **changes | {"settings": USED | changes.get("settings", {})})
        for arm, changes in arms.items()
    }
    section = write(tmp_path, **files).partition("## Runs")[2]
    return {arm: rows(section, arm)[0][3] for arm in arms}


def test_runs_table_shows_differing_settings(tmp_path: Path) -> None:
    changed = {
        "evaluation.strands": 2,
        "training.epochs": 8,
        "training.reverse_complement": True,
        "schedule.plateau": "published",
        "data.max_length": 500,
        "folds.stratified": True,
        "model.preset": "ldarnet-2m",  # no effect on a checkpoint, which defines its own architecture
    }
    shown = shown_settings(tmp_path, one={}, two={"settings": changed, "seed": 7})
    assert set(shown["one"].split(", ")) == {
        *("lr 0.002", "batch 16", "seed 42", "strands 1", "epochs 4", "reverse_complement false"),
        *("plateau rising", "max_length null", "folds.stratified false"),
    }
    assert set(shown["two"].split(", ")) == {
        *("lr 0.002", "batch 16", "seed 7", "strands 2", "epochs 8", "reverse_complement true"),
        *("plateau published", "max_length 500", "folds.stratified true"),
    }


def test_runs_table_omits_settings_without_effect(tmp_path: Path) -> None:
    shown = shown_settings(
        tmp_path,
        full={},
        frozen={"mode": "probe", "settings": {"training.epochs": 2, "optimizer.lr": 0.5}},
        kmers={"arm": "kmers", "settings": {"training.epochs": 2, "training.precision": "bf16"}},
    )
    # Epochs and precision differ only where they have no effect.
    assert shown == {"full": "lr 0.002, batch 16, seed 42", "frozen": "-", "kmers": "-"}


def test_runs_table_shows_differing_presets_of_new_weights(tmp_path: Path) -> None:
    new = {"arm": "random", "checkpoint_sha256": None}
    shown = shown_settings(tmp_path, small=new, large=new | {"settings": {"model.preset": "ldarnet-2m"}}, old={})
    assert {arm: "preset" in text for arm, text in shown.items()} == {"small": True, "large": True, "old": False}


def test_runs_table_shows_the_seed_that_selects_rows(tmp_path: Path) -> None:
    shown = shown_settings(tmp_path, kmers={"arm": "kmers", "settings": {"data.limit": 300}})
    assert shown == {"kmers": "seed 42"}


def test_constant_folds_have_no_interval_and_zero_mcc_is_explained(tmp_path: Path) -> None:
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
    assert "are predicted as one class. **constant** on H3 (folds 0, 1, 2)." in report
    assert "no better than chance. **chance** on H3 (fold 0)." in report
    assert "(unknown without predictions.tsv). **unknown** on H3 (fold 1)." in report
    assert "**good** on" not in report


def test_two_folds_have_no_interval_and_no_test(tmp_path: Path) -> None:
    arms = {"a": make_run(tmp_path / "a", "nt/H3", [0.0, 0.484]), "b": make_run(tmp_path / "b", "nt/H3", [0.6, 0.7])}
    report = write(tmp_path, **arms)
    assert rows(report, "H3")[0][3:5] == ["0.242", "**0.650**"]
    assert rows(report, "a - b") == [["a - b", "H3", "2", "-0.408", "-"]]
    assert report.count("are not tested over folds") == 1
    assert rows(report.partition("the LDARNet authors' folds")[2], "H3")[0][4:] == ["paired, no test", "-", "-"]


@pytest.mark.parametrize(("folds", "columns"), [(1, 5), (2, 5), (3, 9)])
def test_many_arms_are_paired_in_one_table(tmp_path: Path, folds: int, columns: int) -> None:
    tasks = ["nt/H3", "nt/H4", "nt/H3K4me1"]
    names = ["a", "b", "c", "d", "e", "f"]
    values = {arm: [0.4 + 0.05 * rank + 0.01 * fold for fold in range(folds)] for rank, arm in enumerate(names)}
    report = write(tmp_path, **{arm: make_tasks(tmp_path / arm, tasks, values[arm]) for arm in names})
    section = report.partition("fold by fold")[2].partition("### ")[0]
    first, _, second = section.partition("<details>")
    assert first.count("\n| ") == 2 + 15 and second.count("\n| ") == 2 + 15 * 3
    assert rows(first, "a - c") == [["a - c", "MCC", "3", "-0.100", "-0.100 to -0.100", "0", "3"]]
    assert [len(row) for row in rows(second, "e - f")] == [columns] * 3
    assert section.count("are not tested over folds") == (folds < 3)


def test_table_over_tasks_counts_intervals_that_exclude_zero(tmp_path: Path) -> None:
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


def test_arms_with_the_same_mismatch_are_listed_together(tmp_path: Path) -> None:
    short = {"rows": {"train": 270, "valid": 30, "test": 1497, "test_leak_free": 900}}
    arms = {arm: make_run(tmp_path / arm, "nt/H3", [0.5, 0.6, 0.7], **short) for arm in ("a", "b")}
    assert "Not tested against the authors' folds: **a**, **b** (H3 trained on 300 of 13,468 rows)." in write(
        tmp_path, **arms
    )
