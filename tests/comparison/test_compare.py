"""Comparison reports agree with the fold results and pair only matching folds."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from ldarnet.cli import app
from ldarnet.comparison.compare import find_results, write_comparison
from ldarnet.comparison.published import published
from ldarnet.comparison.statistics import corrected_t
from ldarnet.errors import UserError
from ldarnet.tasks.metrics import interval
from tests.support.made_results import make_predictions, make_run, make_tasks

OURS = [0.80, 0.81, 0.82, 0.80, 0.83, 0.81, 0.82, 0.80, 0.79, 0.85]
OTHERS = [0.78, 0.80, 0.80, 0.79, 0.80, 0.81, 0.79, 0.80, 0.78, 0.80]
AUTHORS = next(n for n in published("nucleotide_transformer", "H3") if n.folds).folds
FULL = {"train": 12121, "valid": 1347, "test": 1497, "test_leak_free": 900}
SUBSET = {"train": 2419, "valid": 269, "test": 1497, "test_leak_free": 900}


def write(tmp_path: Path, **arms: list[Path]) -> str:
    """Write a comparison and return its report."""
    write_comparison(arms, tmp_path / "out")
    assert (tmp_path / "out" / "results.png").read_bytes()[:4] == b"\x89PNG"
    return (tmp_path / "out" / "results.md").read_text(encoding="utf-8")


def rows(report: str, first: str) -> list[list[str]]:
    """Table rows of the report whose first cell is `first`."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.splitlines() if line[:1] == "|"]
    return [row for row in cells if row[0] == first]


def lines(tmp_path: Path, **columns: str) -> list[dict[str, str]]:
    """Rows of results.csv with the given column values."""
    with open(tmp_path / "out" / "results.csv", encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if columns.items() <= row.items()]


def test_report_means_match_the_folds_in_the_csv(tmp_path: Path) -> None:
    arms = {"a": make_run(tmp_path / "a", "nt/H3", OURS), "b": make_run(tmp_path / "b", "nt/H3", OTHERS)}
    report = write(tmp_path, **arms)
    for number, (arm, values) in enumerate((("a", OURS), ("b", OTHERS))):
        for column, which, expected in ((3, "all", values), (None, "leak_free", [v - 0.1 for v in values])):
            found = lines(tmp_path, kind="ours", name=arm, task="H3", metric="mcc", test_set=which)
            assert [float(row["value"]) for row in found] == pytest.approx(expected)
            assert [int(row["fold"]) for row in found] == list(range(10))
            mean, half = interval([float(row["value"]) for row in found])
            cell = rows(report, "H3")[0][column + number] if column else rows(report, "H3")[1][4 + 2 * number]
            assert cell.strip("*") == f"{mean:.3f} ± {half:.3f}"
    assert rows(report, "H3")[0][1:3] == ["MCC", "10"]
    assert rows(report, "H3")[0][3].startswith("**")  # bold: the best of our arms
    assert "Not comparable" not in report


def test_two_arms_on_the_same_folds_are_paired(tmp_path: Path) -> None:
    report = write(tmp_path, a=make_run(tmp_path / "a", "nt/H3", OURS), b=make_run(tmp_path / "b", "nt/H3", OTHERS[:8]))
    section = report.partition("fold by fold")[2]
    _, task, folds, difference, over_rows, p, holm, signed, _ = rows(section, "a - b")[0]
    differences = np.subtract(OURS[:8], OTHERS[:8])
    assert (task, folds, over_rows) == ("H3", "8", "-")
    assert float(difference) == pytest.approx(differences.mean(), abs=5e-4)
    expected = corrected_t(list(differences), 13468 - 1346, 1497)
    assert expected is not None
    assert float(p) == pytest.approx(expected, abs=5e-4)
    assert holm == p
    assert 0 < float(signed) <= 1


def test_arms_with_different_rows_or_folds_are_not_paired(tmp_path: Path) -> None:
    changes = {
        "other rows": {"data_fingerprint": "e" * 64},
        "other seed of folds": {"settings": {"folds.seed": 43}},
        "stratified": {"settings": {"folds.stratified": True}},
        "a limit": {"settings": {"data.limit": 500}},
        "other number": {"folds": 20},
    }
    ours = make_run(tmp_path / "a", "nt/H3", OURS)
    for name, change in changes.items():
        report = write(tmp_path, ours=ours, theirs=make_run(tmp_path / name, "nt/H3", OTHERS, **change))
        assert "**ours - theirs** not paired on H3" in report, name
        assert not rows(report, "ours - theirs"), name


def test_equal_limits_select_equal_rows_only_with_equal_seeds(tmp_path: Path) -> None:
    limit = {"settings": {"data.limit": 500}}
    arms = {seed: make_run(tmp_path / str(seed), "nt/H3", OURS, seed=seed, **limit) for seed in (1, 2)}
    again = make_run(tmp_path / "again", "nt/H3", OTHERS, seed=1, **limit)
    report = write(tmp_path, one=arms[1], two=arms[2], again=again)
    assert "**one - two** not paired" in report
    assert "**one - again** not paired" not in report


def test_authors_folds_are_paired_with_the_same_folds_only(tmp_path: Path) -> None:
    cases = {
        "paired, corrected t, 10 folds": make_run(tmp_path / "same", "nt/H3", OURS, rows=FULL),
        "unpaired, Welch": make_run(tmp_path / "cut", "nt/H3", OURS, rows=FULL, settings={"folds.seed": 7}),
    }
    for words, files in cases.items():
        section = write(tmp_path, ours=files).partition("the LDARNet authors' folds")[2]
        row = rows(section, "H3")[0]
        assert row[4] == words
        assert float(row[3]) == pytest.approx(np.mean(OURS) - np.mean(AUTHORS), abs=1e-3)
    section = write(tmp_path, ours=make_run(tmp_path / "few", "nt/H3", OURS[:3], rows=FULL))
    row = rows(section.partition("the LDARNet authors' folds")[2], "H3")[0]
    assert row[2].endswith(f"; {np.mean(AUTHORS[:3]):.3f} on the same 3 folds")
    assert float(row[3]) == pytest.approx(np.mean(OURS[:3]) - np.mean(AUTHORS[:3]), abs=1e-3)
    subset = make_run(tmp_path / "subset", "nt/H3", OURS, rows=SUBSET, data_fingerprint="e" * 64)
    report = write(tmp_path, ours=subset, theirs=cases["unpaired, Welch"])
    assert "> **Arms differ in rows or folds** of H3." in report
    assert "Not tested against the authors' folds: **ours** (H3 trained on 2,688 of 13,468 rows)" in report
    assert "> **Not comparable with published results**, shown for orientation. H3: trained on 2,688" in report
    assert lines(tmp_path, kind="ours")[0]["comparable_with_published"] == "no: trained on 2,688 of 13,468 rows"


def test_tied_means_are_both_bold(tmp_path: Path) -> None:
    arms = {"one": make_run(tmp_path / "one", "nt/H3", [0.75]), "two": make_run(tmp_path / "two", "nt/H3", [0.5, 1.0])}
    assert [cell.startswith("**0.750") for cell in rows(write(tmp_path, **arms), "H3")[0][3:5]] == [True, True]


def test_ranking_includes_published_models_only_on_published_rows(tmp_path: Path) -> None:
    full = [make_run(tmp_path / task, f"nt/{task}", values) for task, values in (("H3", OURS), ("H4", OTHERS))]
    section = write(tmp_path, ours=[*full[0], *full[1]]).partition("Wins and mean rank")[2].partition("### ")[0]
    best = {row[0]: row[1:] for row in rows(section, "JanusDNA without attention") + rows(section, "ours")}
    # Mean ranks: of ranks 2 and 1, and of ranks 5 and 8.
    assert best == {"JanusDNA without attention": ["1", "1.50"], "ours": ["0", "6.50"]}
    assert not rows(section, "HyenaDNA")  # scored on different test rows
    section = write(tmp_path, JanusDNA=[*full[0], *full[1]]).partition("Wins and mean rank")[2].partition("### ")[0]
    assert rows(section, "JanusDNA")[0][1:] == best["ours"]
    assert len(rows(section, "JanusDNA, published")) == 1
    subset = make_tasks(tmp_path / "subset", ["nt/H3", "nt/H4"], OURS, rows=SUBSET)
    other = make_tasks(tmp_path / "other", ["nt/H3", "nt/H4"], OTHERS, rows=SUBSET)
    section = write(tmp_path, ours=subset, other=other).partition("Wins and mean rank")[2].partition("### ")[0]
    assert "among our arms only" in section
    assert len(re.findall(r"^\| (?!model|---)", section, re.MULTILINE)) == 2


def test_single_task_has_no_ranking(tmp_path: Path) -> None:
    arms = {"a": make_run(tmp_path / "a", "nt/H3", OURS), "b": make_run(tmp_path / "b", "nt/H3", OTHERS)}
    assert "### Wins and mean rank" not in write(tmp_path, **arms)


def test_different_metrics_are_not_compared(tmp_path: Path) -> None:
    report = write(tmp_path, ours=make_tasks(tmp_path / "a", ["nt/promoter_all", "nt/promoter_tata"], OURS))
    wins = report.partition("Wins and mean rank")[2].partition("### ")[0]
    assert rows(wins, "ours")
    assert "Caduceus" not in wins  # Caduceus reports F1 of class 1 there, our runs report MCC
    assert "| promoter_all | f1, binary |" in report


def test_genomic_benchmarks_use_accuracy(tmp_path: Path) -> None:
    tasks = ["gb/human_enhancers_cohn", "gb/human_enhancers_ensembl"]
    report = write(tmp_path, ours=make_tasks(tmp_path / "a", tasks, OURS))
    assert rows(report, "human_enhancers_cohn")[0][1] == "accuracy"
    assert rows(report, "Caduceus-Ph")


def test_interval_over_test_rows_needs_predictions(tmp_path: Path) -> None:
    labels = [0, 1] * 50
    arms = {name: make_run(tmp_path / name, "nt/H3", OURS[:2]) for name in ("a", "b")}
    make_predictions(tmp_path / "a", labels, [labels, labels])
    make_predictions(tmp_path / "b", labels, [[0] * 100] * 2)
    section = write(tmp_path, **arms).partition("fold by fold")[2]
    assert rows(section, "a - b")[0][4] == "+1.000 to +1.000"


def test_own_task_needs_no_published_result(tmp_path: Path) -> None:
    own = {"suite": "own", "task": "mine", "metric": "accuracy"}
    arms = {name: make_run(tmp_path / name, "nt/H3", values, **own) for name, values in (("a", OURS), ("b", OTHERS))}
    report = write(tmp_path, **arms)
    assert rows(report, "mine")[0][:2] == ["mine", "accuracy"]
    assert "LDARNet (authors)" not in report
    assert rows(report, "a - b")[0][1] == "mine"


def test_own_tasks_with_different_rows_are_rejected(tmp_path: Path) -> None:
    own = {"suite": "own", "task": "train"}
    a = make_run(tmp_path / "a", "nt/H3", OURS, **own)
    b = make_run(tmp_path / "b", "nt/H3", OURS, data_fingerprint="e" * 64, **own)
    with pytest.raises(UserError, match=r"arms 'b' and 'a' have different rows of task 'train'"):
        write_comparison({"a": a, "b": b}, tmp_path / "out")
    write_comparison({"a": a}, tmp_path / "out")
    with open(tmp_path / "out" / "results.csv", newline="", encoding="utf-8") as file:
        assert {row["comparable_with_published"] for row in csv.DictReader(file)} == {""}


def test_different_numbers_of_test_rows_are_all_shown(tmp_path: Path) -> None:
    counts = {"train": 1000, "valid": 100, "test": 50, "test_leak_free": 40}
    a = make_run(tmp_path / "a", "nt/H3", OURS)
    b = make_run(tmp_path / "b", "nt/H3", OTHERS, data_fingerprint="e" * 64, rows=counts)
    write_comparison({"a": a, "b": b}, tmp_path / "out")
    report = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "| H3 | 1,497 or 50 | 100 or 40 |" in report


def test_own_task_uses_the_metric_of_the_first_arm(tmp_path: Path) -> None:
    own = {"suite": "own", "task": "mine"}
    arms = {name: make_run(tmp_path / name, "nt/H3", OURS, metric=name, **own) for name in ("accuracy", "mcc")}
    for file in (*arms["accuracy"], *arms["mcc"]):
        content = json.loads(file.read_text())
        content["test"]["mcc"] = 0.1
        file.write_text(json.dumps(content))
    report = write(tmp_path, **arms)
    assert rows(report, "mine")[0][1] == "accuracy"
    assert rows(report, "accuracy - mcc")[0][3] == "+0.000"


def test_sweep_folder_yields_the_selected_settings(tmp_path: Path) -> None:
    chosen = make_run(tmp_path / "sweep" / "trials" / "lr=1", "nt/H3", OURS)
    make_run(tmp_path / "sweep" / "trials" / "lr=2", "nt/H3", OTHERS)
    results = [str(path.relative_to(tmp_path / "sweep")) for path in chosen]
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"tasks": {"nt/H3": {"results": results}}}))
    assert find_results(tmp_path / "sweep") == chosen


def test_results_of_several_runs_are_found_and_missing_folds_reported(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "H3", "nt/H3", OURS[:3])
    make_run(tmp_path / "runs" / "H4", "nt/H4", OURS)
    found = find_results(tmp_path / "runs")
    assert len(found) == 13
    report = write(tmp_path, ours=found)
    assert "> **Missing folds.** ours on H3: 3 of 10 finished." in report
    with pytest.raises(UserError, match="no finished fold"):
        find_results(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"settings": {"optimizer.lr": 1.0}}, r"arm 'ours' mixes runs that differ in optimizer.lr"),
        ({"arm": "cnn"}, "differ in arm"),
        ({"data_fingerprint": "0" * 64}, "differ in data_fingerprint"),
        ({"checkpoint_sha256": "0" * 64}, "differ in checkpoint_sha256"),
        ({}, "fold 0 of H3 occurs twice"),
    ],
)
def test_arm_must_be_one_run(tmp_path: Path, second: dict, message: str) -> None:
    files = make_run(tmp_path / "a", "nt/H3", OURS[:2]) + make_run(tmp_path / "b", "nt/H3", OURS[:4], **second)
    with pytest.raises(UserError, match=message):
        write_comparison({"ours": files[:2] + files[4:] if second else files}, tmp_path / "out")


@pytest.mark.parametrize("content", ["{", "[]", '{"task": "H3"}'])
def test_damaged_result_is_rejected(tmp_path: Path, content: str) -> None:
    (file,) = make_run(tmp_path / "a", "nt/H3", OURS[:1])
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(f"{file}: damaged")):
        write_comparison({"ours": [file]}, tmp_path / "out")


def test_command_writes_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a", "nt/H3", OURS)
    app(["compare", f"ours={tmp_path / 'a'}", "--out", str(tmp_path / "out")], standalone_mode=False)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.md", "results.csv", "results.png"}
    for wrong in ("ours", "=x", "ours="):
        with pytest.raises(UserError, match="give each arm once, as NAME=FOLDER"):
            app(["compare", wrong, "--out", str(tmp_path / "out")], standalone_mode=False)
