"""Comparisons by AUROC and AUPRC: intervals of differences over test rows."""

from pathlib import Path

import numpy as np
import pytest

from ldarnet.comparison.compare import write_comparison
from ldarnet.errors import UserError
from tests.support.made_results import make_predictions, make_run


def make_ranked(folder: Path, signal: float, rows: int = 200) -> list[Path]:
    """Write a run of two folds, selected by AUROC, whose probabilities depend on the label by `signal`."""
    own = {"suite": "own", "task": "mine", "metric": "auroc"}
    files = make_run(folder, "nt/H3", [0.5 + signal / 2] * 2, **own)
    labels = (np.arange(rows) % 2).tolist()
    make_predictions(folder, labels, [labels, labels])
    for fold in range(2):
        rng, path = np.random.default_rng(fold), folder / f"fold{fold}/predictions.tsv"
        head, *lines = path.read_text().splitlines()
        right = (rng.random(rows) + signal * np.array(labels)) / (1 + signal)
        cells = [line.split("\t") for line in lines]
        table = [[*row[:3], f"{1 - p:.6g}", f"{p:.6g}", row[5]] for row, p in zip(cells, right, strict=True)]
        path.write_text("\n".join([head, *map("\t".join, table)]) + "\n")
    return files


def test_differences_in_auroc_have_intervals(tmp_path: Path) -> None:
    arms = {"good": make_ranked(tmp_path / "good", 1.0), "poor": make_ranked(tmp_path / "poor", 0.0)}
    write_comparison(arms, tmp_path / "out")
    (line,) = [row for row in (tmp_path / "out/results.md").read_text().splitlines() if row.startswith("| good - poor")]
    low, _, high = line.split("|")[5].split()
    assert 0.35 < float(low) < 0.5 < float(high) < 0.65  # AUROC of 1 and 1/2


def test_damaged_probabilities_are_an_error(tmp_path: Path) -> None:
    arms = {"good": make_ranked(tmp_path / "good", 1.0), "poor": make_ranked(tmp_path / "poor", 0.0)}
    path = tmp_path / "poor/fold1/predictions.tsv"
    lines = path.read_text().splitlines()
    for content, message in (
        (
            [lines[0].replace("p_1", "p_2"), *lines[1:]],
            r"does not have the columns .* and p_<class>",
        ),
        ([*lines[:4], lines[4].replace("\t0.", "\tx."), *lines[5:]], r"line 5: damaged"),
        ([*lines[:4], "\t".join([*lines[4].split("\t")[:4], "nan", "1"]), *lines[5:]], r"not finite"),
    ):
        path.write_text("\n".join(content) + "\n")
        with pytest.raises(UserError, match=message):
            write_comparison(arms, tmp_path / "out")
