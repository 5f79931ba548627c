"""The registry of classification metrics, and the confidence interval over folds.

To add a metric, add an entry to `METRICS`: configuration, results, summaries, sweeps and comparisons all use it.

Shapes: n rows, C classes, R resamples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ldarnet.tasks.ranking import auroc, average_precision, weighted_ranking

MIN_FOLDS = 3
"""Minimum number of folds for an interval or a test over folds; two folds have only one degree of freedom."""
TOLERANCE = 1e-9
"""Values that differ by less than this are treated as equal."""


@dataclass(frozen=True)
class Metric:
    """A classification metric; higher is better, 1 is perfect.

    Attributes:
        name: display name, used in tables and figures.
        score: computes the metric from labels (n,) and class probabilities (n, C); returns None if it is undefined.
        minimum: lowest possible value.
        from_confusion: computes values (R,) from confusion matrices (R, C, C), indexed by label and prediction; used to
            bootstrap the metric over test rows. None for metrics that need probabilities.
        from_weights: computes values (R,) from labels (n,), probabilities (n, C) and how often each row occurs in each
            resample (R, n), NaN where undefined; used instead of `from_confusion` for metrics that need probabilities.
    """

    name: str
    score: Callable[[np.ndarray, np.ndarray], float | None]
    minimum: float = 0.0
    from_confusion: Callable[[np.ndarray], np.ndarray] | None = None
    from_weights: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None

    @property
    def resampled(self) -> bool:
        """Whether the metric can be bootstrapped over test rows."""
        return self.from_confusion is not None or self.from_weights is not None


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """Compute every registered metric; undefined metrics are None.

    Args:
        labels: (n,) int64, class indices from 0 to C - 1; n >= 1.
        probabilities: (n, C), rows sum to 1.
    """
    return {key: metric.score(labels, probabilities) for key, metric in METRICS.items()}


def undefined(values: dict[str, float | None]) -> list[str]:
    """Display names of the metrics whose value is None."""
    return [metric.name for key, metric in METRICS.items() if values.get(key) is None]


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean of one or more values, and half-width of its 95% confidence interval (Student's t).

    The half-width is None if there are fewer than MIN_FOLDS values or all values are equal. Equal values usually mean
    that every row is predicted as the same class, and ± 0 would look like a precise result.
    """
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < MIN_FOLDS or np.ptp(values) <= TOLERANCE:
        return mean, None
    return mean, float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def _mcc(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Matthews correlation coefficient; None if all labels are equal (scikit-learn returns 0)."""
    from sklearn.metrics import matthews_corrcoef

    return None if (labels == labels[0]).all() else float(matthews_corrcoef(labels, probabilities.argmax(1)))


def _f1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """F1 averaged over classes, weighted by class size."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, probabilities.argmax(1), average="weighted", zero_division=0))


def _accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, probabilities.argmax(1)))


def _ranking(function: str, labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Compute a ranking metric of scikit-learn; None if all labels are equal or a probability is not finite.

    With two classes, class 1 is the positive class. With more classes, the one-vs-rest scores are averaged, weighted by
    class size.
    """
    import sklearn.metrics

    rank = getattr(sklearn.metrics, function)
    rows = np.bincount(labels, minlength=probabilities.shape[1])
    if (rows > 0).sum() < 2 or not np.isfinite(probabilities).all():
        return None
    if len(rows) == 2:
        return float(rank(labels, probabilities[:, 1]))
    present = rows.nonzero()[0]  # a class without rows has weight 0 and an undefined score
    by_class = np.array([rank(labels == label, probabilities[:, label]) for label in present])
    return float(np.cumsum(by_class * rows[present])[-1] / rows[present].sum())  # cumsum adds in class order


def _mcc_from_confusion(counts_RCC: np.ndarray) -> np.ndarray:
    """Matthews correlation for any number of classes (Gorodkin 2004); 0 where undefined, as in scikit-learn."""
    true_RC, predicted_RC = counts_RCC.sum(axis=2), counts_RCC.sum(axis=1)
    rows = counts_RCC.sum(axis=(1, 2))
    numerator = np.trace(counts_RCC, axis1=1, axis2=2) * rows - (true_RC * predicted_RC).sum(axis=1)
    denominator = np.sqrt((rows**2 - (true_RC**2).sum(axis=1)) * (rows**2 - (predicted_RC**2).sum(axis=1)))
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _f1_from_confusion(counts_RCC: np.ndarray) -> np.ndarray:
    true_RC, predicted_RC = counts_RCC.sum(axis=2), counts_RCC.sum(axis=1)
    hits_RC = np.diagonal(counts_RCC, axis1=1, axis2=2)
    both_RC = true_RC + predicted_RC
    f1_RC = np.divide(2 * hits_RC, both_RC, out=np.zeros_like(both_RC), where=both_RC > 0)
    return (f1_RC * true_RC).sum(axis=1) / true_RC.sum(axis=1)


def _accuracy_from_confusion(counts_RCC: np.ndarray) -> np.ndarray:
    return np.trace(counts_RCC, axis1=1, axis2=2) / counts_RCC.sum(axis=(1, 2))


METRICS: dict[str, Metric] = {
    "mcc": Metric("MCC", _mcc, minimum=-1.0, from_confusion=_mcc_from_confusion),
    "f1": Metric("F1 (weighted)", _f1, from_confusion=_f1_from_confusion),
    "accuracy": Metric("accuracy", _accuracy, from_confusion=_accuracy_from_confusion),
    "auroc": Metric("AUROC", partial(_ranking, "roc_auc_score"), from_weights=partial(weighted_ranking, auroc)),
    "auprc": Metric(
        "AUPRC",
        partial(_ranking, "average_precision_score"),
        from_weights=partial(weighted_ranking, average_precision),
    ),
}
"""Metrics by configuration key, in the order in which results list them."""
