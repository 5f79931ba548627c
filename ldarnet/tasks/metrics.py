"""The registries of metrics, one per type of task, and the confidence interval over folds.

To add a metric, add an entry to `METRICS` (classification) or to another registry: configuration, results, summaries,
sweeps and comparisons all use it.

Shapes: n rows, C classes, T targets, R resamples.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ldarnet.tasks import regression_metrics as regression
from ldarnet.tasks.ranking import auroc, average_precision, weighted_ranking

CLASSIFICATION, REGRESSION, BASES = "classification", "regression", "base_classification"
"""Types of tasks: one class per sequence; one or several numbers per sequence; one class per base."""
MIN_FOLDS = 3
"""Minimum number of folds for an interval or a test over folds; two folds have only one degree of freedom."""
TOLERANCE = 1e-9
"""Values that differ by less than this are treated as equal."""


@dataclass(frozen=True)
class Metric:
    """A metric; higher is better, 1 is perfect. `probabilities` are predicted values (n, T) in regression.

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


def metrics_of(task_type: str) -> Mapping[str, Metric]:
    """Metrics of a type of task, by configuration key; the first one is the default of `evaluation.metric`."""
    return REGISTRIES[task_type]


def find_metric(key: str) -> Metric | None:
    """Metric by its configuration key, for any type of task; None if there is no such metric."""
    return next((metrics[key] for metrics in REGISTRIES.values() if key in metrics), None)


def metric_name(key: str) -> str:
    """Display name of a metric; the key itself if there is no such metric."""
    return key if (metric := find_metric(key)) is None else metric.name


def scores(labels: np.ndarray, probabilities: np.ndarray, task_type: str = CLASSIFICATION) -> dict[str, float | None]:
    """Compute every metric of a type of task; undefined metrics are None.

    Args:
        labels: (n,) int64, class indices from 0 to C - 1; in regression, (n, T) float64; n >= 1.
        probabilities: (n, C), rows sum to 1; in regression, predicted values (n, T).
        task_type: a key of `REGISTRIES`.
    """
    return {key: metric.score(labels, probabilities) for key, metric in metrics_of(task_type).items()}


def undefined(values: dict[str, float | None], task_type: str = CLASSIFICATION) -> list[str]:
    """Display names of the metrics whose value is None."""
    return [metric.name for key, metric in metrics_of(task_type).items() if values.get(key) is None]


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


def _macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """F1 averaged over the classes that have labels."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, probabilities.argmax(1), labels=np.unique(labels), average="macro", zero_division=0))


def _macro_f1_from_confusion(counts_RCC: np.ndarray) -> np.ndarray:
    true_RC, predicted_RC = counts_RCC.sum(axis=2), counts_RCC.sum(axis=1)
    both_RC = true_RC + predicted_RC
    hits_RC = np.diagonal(counts_RCC, axis1=1, axis2=2)
    f1_RC = np.divide(2 * hits_RC, both_RC, out=np.zeros_like(both_RC), where=both_RC > 0)
    return (f1_RC * (true_RC > 0)).sum(axis=1) / np.maximum((true_RC > 0).sum(axis=1), 1)


def _macro_ranking(function: str, labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Ranking metric of class 1 of two, or the mean of one-vs-rest scores over the classes that have labels."""
    import sklearn.metrics

    rank = getattr(sklearn.metrics, function)
    present = np.unique(labels)
    if len(present) < 2 or not np.isfinite(probabilities).all():
        return None
    shown = [1] if probabilities.shape[1] == 2 else present
    return float(np.mean([rank(labels == label, probabilities[:, label]) for label in shown]))


def class_scores(labels: np.ndarray, probabilities: np.ndarray, label: int) -> dict[str, float | None]:
    """Number of labels of a class, and its precision, recall, F1 and AUPRC against the rest; None where undefined."""
    from sklearn.metrics import average_precision_score

    true, predicted = labels == label, probabilities.argmax(1) == label
    hits, found, present = (int(one.sum()) for one in (true & predicted, predicted, true))
    return {
        "bases": present,
        "precision": hits / found if found else None,
        "recall": hits / present if present else None,
        "f1": 2 * hits / (found + present) if present else None,
        "auprc": float(average_precision_score(true, probabilities[:, label])) if present else None,
    }


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
"""Metrics of classification by configuration key, in the order in which results list them."""

REGRESSION_METRICS: dict[str, Metric] = {
    "pearson": Metric("Pearson r", regression.pearson, minimum=-1.0, from_weights=regression.weighted_pearson),
    "spearman": Metric("Spearman rho", regression.spearman, minimum=-1.0),
    "r2": Metric("R2", regression.r2, minimum=-math.inf, from_weights=regression.weighted_r2),
}
"""Metrics of regression, averaged over targets."""

BASE_METRICS: dict[str, Metric] = {
    "mcc": METRICS["mcc"],
    "macro_f1": Metric("F1 (macro)", _macro_f1, from_confusion=_macro_f1_from_confusion),
    "accuracy": METRICS["accuracy"],
    "macro_auroc": Metric("AUROC (macro)", partial(_macro_ranking, "roc_auc_score")),
    "macro_auprc": Metric("AUPRC (macro)", partial(_macro_ranking, "average_precision_score")),
}
"""Metrics of labeled bases. Macro averages give rare classes, such as splice sites, the weight of frequent ones."""

REGISTRIES: dict[str, dict[str, Metric]] = {
    CLASSIFICATION: METRICS,
    REGRESSION: REGRESSION_METRICS,
    BASES: BASE_METRICS,
}
"""Metrics by type of task. A key has the same meaning in every registry."""
