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


def bootstrap(labels_N: np.ndarray, predictions: Predictions, metric: str, seed: int = 0) -> np.ndarray:
    """Draw 2,000 bootstrap resamples of the rows, and compute the mean metric over K models on each of them.

    A resample uses the same rows for all models, and for all calls with the same labels and seed (paired bootstrap).
    Models are not retrained, so the result does not include variation between training runs.

    Args:
        labels_N: class indices, 0..C-1.
        predictions: predictions of each model; predicted classes suffice for metrics with `from_confusion`.
        metric: a metric with `from_confusion` or `from_weights`.
        seed: seed of the resamples.

    Returns:
        The mean metric on each resample, (R,); NaN where it is undefined.
    """
    found = find_metric(metric)
    assert found is not None
    mean = _mean_over_models(found, labels_N, predictions)
    return np.concatenate([mean(weights_RN) for weights_RN in resamples(len(labels_N), seed)])


def row_intervals(
    labels_N: np.ndarray, probabilities_NC: np.ndarray, task_type: str = CLASSIFICATION
) -> dict[str, list[float] | None]:
    """95% confidence interval (bootstrap percentiles) of every metric that can be resampled.

    Resamples in which a metric is undefined are skipped. The interval is None if all values are undefined or equal: a
    model that predicts one class for every row has an MCC of 0 in every resample, and 0 to 0 would look precise.
    In regression, labels and predictions are (N, T).
    """
    means = {
        name: _mean_over_models(metric, labels_N, [probabilities_NC])
        for name, metric in metrics_of(task_type).items()
        if metric.resampled
    }
    values: dict[str, list[np.ndarray]] = {name: [] for name in means}
    for weights_RN in resamples(len(labels_N)):
        for name, mean in means.items():
            values[name].append(mean(weights_RN))
    return {name: _percentiles(np.concatenate(found)) for name, found in values.items()}


def grouped_intervals(
    labels: np.ndarray, predicted: np.ndarray, groups: np.ndarray, count: int, classes: int, task_type: str
) -> dict[str, list[float] | None]:
    """`row_intervals` for rows with several labels each, which are resampled together.

    Only metrics with `from_confusion` have intervals.

    Args:
        labels: class index of each label.
        predicted: predicted class index of each label.
        groups: row of each label.
        count: number of rows, N.
        classes: number of classes, C.
        task_type: type of the task.
    """
    cell = (groups * classes + labels) * classes + predicted
    counts = np.bincount(cell, minlength=count * classes**2).reshape(count, -1).astype(np.float64)
    metrics = {name: one.from_confusion for name, one in metrics_of(task_type).items() if one.from_confusion}
    values: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    for weights_RN in resamples(count):
        counts_RCC = (weights_RN @ counts).reshape(-1, classes, classes)
        for name, from_confusion in metrics.items():
            values[name].append(from_confusion(counts_RCC[counts_RCC.any(axis=(1, 2))]))
    return {name: _percentiles(np.concatenate(found)) for name, found in values.items()}


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
    metric: Metric, labels_N: np.ndarray, predictions: Predictions
) -> Callable[[np.ndarray], np.ndarray]:
    """Function from the weights of resamples (R, N) to the mean metric over models (R,)."""
    if (from_weights := metric.from_weights) is not None:
        return lambda weights_RN: np.mean([from_weights(labels_N, one, weights_RN) for one in predictions], axis=0)
    assert metric.from_confusion is not None
    from_confusion = metric.from_confusion
    predicted_KN = [one.argmax(axis=1) if one.ndim == 2 else one for one in predictions]
    classes = int(max(labels_N.max(), *(one.max() for one in predicted_KN))) + 1
    cells = sparse.hstack([_confusion_cells(labels_N, one, classes) for one in predicted_KN], format="csr")

    def mean(weights_RN: np.ndarray) -> np.ndarray:
        counts_KRCC = (weights_RN @ cells).reshape(len(weights_RN), -1, classes, classes).swapaxes(0, 1)
        return np.mean([from_confusion(counts_RCC) for counts_RCC in counts_KRCC], axis=0)

    return mean


def _confusion_cells(labels_N: np.ndarray, predicted_N: np.ndarray, classes: int) -> sparse.csr_array:
    """For each row, the confusion matrix cell that counts it, one-hot encoded, (N, C * C)."""
    cell = labels_N.astype(np.int64) * classes + predicted_N
    return sparse.csr_array((np.ones(len(cell)), (np.arange(len(cell)), cell)), shape=(len(cell), classes**2))
