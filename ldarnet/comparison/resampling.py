"""Bootstrap over test rows: how much a difference between two models depends on the sampled test set.

Shapes: R resamples, K folds, N test rows, C classes.
"""

import hashlib
from array import array
from typing import NamedTuple

import numpy as np
from scipy import sparse

from ldarnet.comparison.results import FoldScores
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import read_errors
from ldarnet.io.records import MAX_LINE_BYTES
from ldarnet.printable import printable
from ldarnet.tasks.metrics import METRICS

HINT = "delete the folder of the fold and fine-tune it again"
RESAMPLES = 2000
RESAMPLES_IN_MEMORY = 100


class Predictions(NamedTuple):
    """Predictions for the test rows of a fold.

    Attributes:
        rows: SHA-256 of the names of the rows.
        labels: (N,) int32 class indices.
        predicted: (N,) int32 predicted class indices.
    """

    rows: bytes
    labels: np.ndarray
    predicted: np.ndarray


def read_predictions(fold: FoldScores) -> Predictions | None:
    """Read predictions.tsv of a fold, line by line; None if there is no such file.

    Raises:
        UserError: the file cannot be read or is malformed, or does not have one line per test row.
    """
    path, content = fold.file.with_name(run_files.PREDICTIONS), fold.content
    if not path.is_file():
        return None
    label_of = {printable(name): label for label, name in enumerate(content["classes"])}
    names, labels, predicted = hashlib.sha256(), array("i"), array("i")
    with read_errors(path), path.open("rb") as file:
        columns = _cells(file.readline(MAX_LINE_BYTES))
        try:
            name, label, guess = (columns.index(column) for column in (b"name", b"label", b"predicted"))
        except ValueError:
            raise UserError(f"{path}: does not have the columns name, label and predicted; {HINT}") from None
        for index, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), start=2):
            cells = _cells(line)
            try:
                classes = [label_of[cells[column].decode()] for column in (label, guess)]
            except (IndexError, KeyError, UnicodeDecodeError):
                raise UserError(f"{path}: line {index}: damaged; {HINT}") from None
            names.update(cells[name] + b"\n")
            labels.append(classes[0])
            predicted.append(classes[1])
    if len(labels) != content["rows"]["test"] or not labels:
        raise UserError(f"{path}: {len(labels):,} rows instead of {content['rows']['test']:,}; {HINT}")
    return Predictions(names.digest(), np.frombuffer(labels, np.int32), np.frombuffer(predicted, np.int32))


def _cells(line: bytes) -> list[bytes]:
    return line.rstrip(b"\n").split(b"\t")


def bootstrap(labels_N: np.ndarray, predicted_KN: np.ndarray, metric: str, seed: int = 0) -> np.ndarray:
    """Draw 2,000 bootstrap resamples of the test rows, and compute the mean metric over folds on each of them.

    A resample uses the same rows for all folds, and for all models with the same labels and seed (paired bootstrap).
    Models are not retrained, so the result does not include variation between training runs.

    Args:
        labels_N: class indices, 0..C-1.
        predicted_KN: predicted class indices.
        metric: a metric with `from_confusion`.
        seed: seed of the resamples.

    Returns:
        The mean metric on each resample, (R,).
    """
    classes, rows = int(max(labels_N.max(), predicted_KN.max())) + 1, len(labels_N)
    cells = sparse.hstack([_confusion_cells(labels_N, fold, classes) for fold in predicted_KN], format="csr")
    values_of = METRICS[metric].from_confusion
    assert values_of is not None
    rng, means = np.random.default_rng(seed), []
    for _ in range(RESAMPLES // RESAMPLES_IN_MEMORY):
        weights_RN = rng.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES_IN_MEMORY)
        counts_KRCC = (weights_RN @ cells).reshape(RESAMPLES_IN_MEMORY, -1, classes, classes).swapaxes(0, 1)
        means.append(np.mean([values_of(counts_RCC) for counts_RCC in counts_KRCC], axis=0))
    return np.concatenate(means)


def interval_of_difference(ours_R: np.ndarray, theirs_R: np.ndarray) -> tuple[float, float]:
    """95% confidence interval (bootstrap percentiles) of the difference between two models on the same resamples."""
    low, high = np.quantile(ours_R - theirs_R, [0.025, 0.975])
    return float(low), float(high)


def _confusion_cells(labels_N: np.ndarray, predicted_N: np.ndarray, classes: int) -> sparse.csr_array:
    """For each test row, the confusion matrix cell that counts it, one-hot encoded, (N, C * C)."""
    cell = labels_N.astype(np.int64) * classes + predicted_N
    return sparse.csr_array((np.ones(len(cell)), (np.arange(len(cell)), cell)), shape=(len(cell), classes**2))
