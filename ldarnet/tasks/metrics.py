"""The metrics of classification, and the interval over folds."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    matthews_corrcoef,
    roc_auc_score,
)

NAMES = {
    "mcc": "MCC",
    "f1": "F1 (weighted)",
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "auprc": "AUPRC",
}
"""The metrics by key, as they are written for people."""

FEWEST = 3
"""Folds that an interval or a test over folds takes. Two of them can say next to nothing: one degree of freedom."""
ROUNDING = 1e-9
"""Numbers that differ by less are the same but for rounding."""


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """All metrics of NAMES; None where one is not defined: MCC, AUROC and AUPRC of rows of one class.

    F1 is the mean over classes weighted by their rows. AUROC and AUPRC (average precision) are those of class 1 where
    there are two classes; of more, the mean of one class against the rest, weighted by its rows.

    Args:
        labels: (n,) int64, 0..classes-1, at least one.
        probabilities: (n, classes), each row with sum 1.
    """
    predicted = probabilities.argmax(1)
    one = (labels == labels[0]).all()
    return {
        "mcc": None if one else float(matthews_corrcoef(labels, predicted)),  # which would say 0
        "f1": float(f1_score(labels, predicted, average="weighted", zero_division=0)),
        "accuracy": float(accuracy_score(labels, predicted)),
        **_ranked(labels, probabilities),
    }


def undefined(values: dict[str, float | None]) -> list[str]:
    """The names of the metrics that have no value."""
    return [name for key, name in NAMES.items() if values[key] is None]


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half width of its 95% interval by Student's t, of at least one value.

    The width is None with fewer than FEWEST values, or when all are equal: mostly because all rows are given one class,
    and ± 0 would look like precision.
    """
    mean = float(np.mean(values))
    if len(values) < FEWEST or np.ptp(values) <= ROUNDING:
        return mean, None
    return mean, float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def _ranked(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """AUROC and AUPRC, which are about the order of rows."""
    number = np.bincount(labels, minlength=probabilities.shape[1])
    if (number > 0).sum() < 2 or not np.isfinite(probabilities).all():
        return {"auroc": None, "auprc": None}
    if len(number) == 2:
        auroc, auprc = roc_auc_score(labels, probabilities[:, 1]), average_precision_score(labels, probabilities[:, 1])
        return {"auroc": float(auroc), "auprc": float(auprc)}
    # Class by class, so that a class without rows, which would have weight 0, is no obstacle.
    present = number.nonzero()[0]
    parts = np.array(
        [
            [metric(labels == of, probabilities[:, of]) for metric in (roc_auc_score, average_precision_score)]
            for of in present
        ]
    )
    auroc, auprc = np.average(parts, axis=0, weights=number[present])
    return {"auroc": float(auroc), "auprc": float(auprc)}
