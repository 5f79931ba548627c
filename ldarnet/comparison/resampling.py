"""Bootstrap over test rows: how much a difference between two models depends on the sampled test set.

Shapes: R resamples, K folds, N test rows, C classes.
"""

import csv
from pathlib import Path

import numpy as np
from scipy import sparse

from ldarnet.io import run_files
from ldarnet.tasks.metrics import METRICS

RESAMPLES = 2000
RESAMPLES_IN_MEMORY = 100


def read_predictions(fold: Path, classes: list[str]) -> tuple[list[str], np.ndarray, np.ndarray] | None:
    """Read names (N), labels (N,) and predicted classes (N,) of a fold's test rows; None without predictions.tsv.

    Args:
        fold: folder of the fold.
        classes: class names by label.
    """
    file = fold / run_files.PREDICTIONS
    if not file.is_file():
        return None
    with open(file, encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE))
    label_of = {name: label for label, name in enumerate(classes)}
    labels, predicted = (np.array([label_of[row[column]] for row in rows]) for column in ("label", "predicted"))
    return [row["name"] for row in rows], labels, predicted


def bootstrap(labels_N: np.ndarray, predicted_KN: np.ndarray, metric: str, seed: int = 0) -> np.ndarray:
    """For each of 2,000 bootstrap resamples of the test rows, compute the mean of a metric over folds, (R,).

    A resample uses the same rows for all folds, and for all models with the same labels and seed (paired bootstrap).
    The trained models are fixed: variation between training runs is measured by the tests over folds.

    Args:
        labels_N: class indices, 0..C-1.
        predicted_KN: predicted class indices.
        metric: a metric with `from_confusion`.
        seed: seed of the resamples.
    """
    classes, rows = int(max(labels_N.max(), predicted_KN.max())) + 1, len(labels_N)
    cells = [_confusion_cells(labels_N, fold, classes) for fold in predicted_KN]
    values_of = METRICS[metric].from_confusion
    assert values_of is not None
    rng, means = np.random.default_rng(seed), []
    for _ in range(RESAMPLES // RESAMPLES_IN_MEMORY):
        weights_RN = rng.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES_IN_MEMORY)
        counts = [(weights_RN @ fold).reshape(-1, classes, classes) for fold in cells]
        means.append(np.mean([values_of(counts_RCC) for counts_RCC in counts], axis=0))
    return np.concatenate(means)


def interval_of_difference(ours_R: np.ndarray, theirs_R: np.ndarray) -> tuple[float, float]:
    """95% bootstrap interval (percentiles) of the difference between two models over the same resamples."""
    low, high = np.quantile(ours_R - theirs_R, [0.025, 0.975])
    return float(low), float(high)


def _confusion_cells(labels_N: np.ndarray, predicted_N: np.ndarray, classes: int) -> sparse.csr_array:
    """One-hot encode the confusion matrix cell of each row: (N, C * C)."""
    cell = labels_N * classes + predicted_N
    return sparse.csr_array((np.ones(len(cell)), (np.arange(len(cell)), cell)), shape=(len(cell), classes**2))
