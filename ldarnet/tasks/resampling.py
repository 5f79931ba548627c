"""Bootstrap over test rows: how much a metric depends on the sampled test set.

Shapes: R resamples, K folds, N rows, C classes.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import sparse

from ldarnet.tasks.metrics import CLASSIFICATION, TOLERANCE, Metric, find_metric, metrics_of

RESAMPLES = 2000
RESAMPLES_IN_MEMORY = 100
MAX_WEIGHTS = 2**24
"""Maximum number of weights in memory, unless a single resample has more rows."""

Predictions = Sequence[np.ndarray] | np.ndarray
"""For each of K models: predicted class indices (N,), or class probabilities (N, C)."""


def bootstrap(
    labels_N: np.ndarray,
    predictions: Predictions,
    metric: str,
    seed: int = 0,
    rows_N: np.ndarray | None = None,
) -> np.ndarray:
    """Draw 2,000 bootstrap resamples of the rows, and compute the mean metric over K models on each of them.

    A resample uses the same rows for all models, and for all calls with the same labels and seed (paired bootstrap).
    Models are not retrained, so the result does not include variation between training runs.

    Args:
        labels_N: class indices, 0..C-1.
        predictions: predictions of each model; predicted classes suffice for metrics with `from_confusion`.
        metric: a metric with `from_confusion` or `from_weights`.
        seed: seed of the resamples.
        rows_N: row of each label, from 0, if a row has several labels, which are resampled together; the metric must
            have `from_confusion`.

    Returns:
        The mean metric on each resample, (R,); NaN where it is undefined.
    """
    found = find_metric(metric)
    assert found is not None
    mean = _mean_over_models(found, labels_N, predictions, rows_N)
    return np.concatenate([mean(weights_RN) for weights_RN in resamples(_count(labels_N, rows_N), seed)])


def row_intervals(
    labels_N: np.ndarray,
    probabilities_NC: np.ndarray,
    task_type: str = CLASSIFICATION,
    rows_N: np.ndarray | None = None,
) -> dict[str, list[float] | None]:
    """95% confidence interval (bootstrap percentiles) of every metric that can be resampled.

    Resamples in which a metric is undefined are skipped. The interval is None if all values are undefined or equal: a
    model that predicts one class for every row has an MCC of 0 in every resample, and 0 to 0 would look precise.
    In regression, labels and predictions are (N, T). `rows_N` is as in `bootstrap`.
    """
    means = {
        name: _mean_over_models(metric, labels_N, [probabilities_NC], rows_N)
        for name, metric in metrics_of(task_type).items()
        if (metric.resampled if rows_N is None else metric.from_confusion)
    }
    values: dict[str, list[np.ndarray]] = {name: [] for name in means}
    for weights_RN in resamples(_count(labels_N, rows_N)):
        for name, mean in means.items():
            values[name].append(mean(weights_RN))
    return {name: _percentiles(np.concatenate(found)) for name, found in values.items()}


def _count(labels_N: np.ndarray, rows_N: np.ndarray | None) -> int:
    return len(labels_N) if rows_N is None else int(rows_N.max()) + 1


def resamples(rows: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield how often each row occurs in each bootstrap resample, (R, N), a few resamples at a time."""
    rng, at_once = np.random.default_rng(seed), max(1, min(RESAMPLES_IN_MEMORY, MAX_WEIGHTS // rows))
    for done in range(0, RESAMPLES, at_once):
        yield rng.multinomial(rows, np.full(rows, 1 / rows), size=min(at_once, RESAMPLES - done))


def _percentiles(values: np.ndarray) -> list[float] | None:
    defined = values[~np.isnan(values)]
    if not len(defined) or np.ptp(defined) <= TOLERANCE:
        return None
    return [float(value) for value in np.quantile(defined, [0.025, 0.975])]


def _mean_over_models(
    metric: Metric, labels_N: np.ndarray, predictions: Predictions, rows_N: np.ndarray | None
) -> Callable[[np.ndarray], np.ndarray]:
    """Function from the weights of the rows in resamples (R, rows) to the mean metric over models (R,)."""
    if rows_N is None and (from_weights := metric.from_weights) is not None:
        return lambda weights_RN: np.mean([from_weights(labels_N, one, weights_RN) for one in predictions], axis=0)
    assert metric.from_confusion is not None
    from_confusion = metric.from_confusion
    predicted_KN = [one.argmax(axis=1) if one.ndim == 2 else one for one in predictions]
    classes = int(max(labels_N.max(), *(one.max() for one in predicted_KN))) + 1
    rows_N = np.arange(len(labels_N)) if rows_N is None else rows_N
    cells = sparse.hstack([_confusion_cells(labels_N, one, classes, rows_N) for one in predicted_KN], format="csr")

    def mean(weights_RN: np.ndarray) -> np.ndarray:
        counts_RKCC = (weights_RN @ cells).reshape(len(weights_RN), -1, classes, classes)
        drawn_R = counts_RKCC.any(axis=(1, 2, 3))  # a resample may consist of rows without labels
        found_R = np.full(len(weights_RN), np.nan)
        found_R[drawn_R] = np.mean([from_confusion(one) for one in counts_RKCC[drawn_R].swapaxes(0, 1)], axis=0)
        return found_R

    return mean


def _confusion_cells(
    labels_N: np.ndarray, predicted_N: np.ndarray, classes: int, rows_N: np.ndarray
) -> sparse.csr_array:
    """For each row, how many of its labels each cell of the confusion matrix counts, (rows, C * C)."""
    cell = labels_N.astype(np.int64) * classes + predicted_N
    shape = (int(rows_N.max()) + 1, classes**2)
    return sparse.csr_array(sparse.coo_array((np.ones(len(cell)), (rows_N, cell)), shape=shape))
