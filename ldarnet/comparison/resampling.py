"""How far a difference between two models depends on which test rows there happen to be.

Shapes: R resamples, K folds, N test rows, C classes.
"""

import csv
from pathlib import Path

import numpy as np
from scipy import sparse

from ldarnet.io import run_files
from ldarnet.tasks.metrics import METRICS

RESAMPLES = 2000
AT_ONCE = 100
"""Resamples held in memory."""


def read_predictions(fold: Path, classes: list[str]) -> tuple[list[str], np.ndarray, np.ndarray] | None:
    """Names (N), labels (N,) and predicted classes (N,) of a fold's test rows; None where the file is not there.

    Args:
        fold: its folder.
        classes: names of the classes, by number.
    """
    file = fold / run_files.PREDICTIONS
    if not file.is_file():
        return None
    with open(file, encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE))
    number = {name: place for place, name in enumerate(classes)}
    labels, predicted = (np.array([number[row[column]] for row in rows]) for column in ("label", "predicted"))
    return [row["name"] for row in rows], labels, predicted


def redrawn(labels_N: np.ndarray, predicted_KN: np.ndarray, metric: str, seed: int = 0) -> np.ndarray:
    """The mean of a metric over folds in each of 2,000 draws of as many test rows: (R,).

    The same rows are drawn for all folds, and for every model that is given the same rows and seed. Training stays as
    it was, so that this is the other half of what a test over folds says.

    Args:
        labels_N: int, 0..C-1.
        predicted_KN: classes that the model predicts.
        metric: one with `from_confusion`.
        seed: of the draws.
    """
    classes, rows = int(max(labels_N.max(), predicted_KN.max())) + 1, len(labels_N)
    counters = [_counter(labels_N, fold, classes) for fold in predicted_KN]
    values_of = METRICS[metric].from_confusion
    assert values_of is not None
    rng, means = np.random.default_rng(seed), []
    for _ in range(RESAMPLES // AT_ONCE):
        weights_RN = rng.multinomial(rows, np.full(rows, 1 / rows), size=AT_ONCE)
        counts = [(weights_RN @ counter).reshape(-1, classes, classes) for counter in counters]
        means.append(np.mean([values_of(counts_RCC) for counts_RCC in counts], axis=0))
    return np.concatenate(means)


def interval_of_difference(ours_R: np.ndarray, theirs_R: np.ndarray) -> tuple[float, float]:
    """The 95% bootstrap interval (percentiles) of the difference of two models over the same draws of test rows."""
    low, high = np.quantile(ours_R - theirs_R, [0.025, 0.975])
    return float(low), float(high)


def _counter(labels_N: np.ndarray, predicted_N: np.ndarray, classes: int) -> sparse.csr_array:
    """(N, C * C): a one in the cell of the confusion matrix that each row belongs to."""
    cell = labels_N * classes + predicted_N
    return sparse.csr_array((np.ones(len(cell)), (np.arange(len(cell)), cell)), shape=(len(cell), classes**2))
