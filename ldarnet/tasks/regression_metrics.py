"""Metrics of regression: correlations and coefficient of determination, averaged over targets.

Missing labels are NaN; a metric of a target is over the rows with a label.

Shapes: n rows, T targets, R resamples.
"""

import math

import numpy as np


def pearson(labels: np.ndarray, predictions: np.ndarray) -> float | None:
    """Pearson correlation of labels and predictions, both (n, T), averaged over targets.

    None if the labels of a target are all equal; 0 for a target whose predictions are all equal.
    """
    return _defined(weighted_pearson(labels, predictions, np.ones((1, len(labels)))))


def spearman(labels: np.ndarray, predictions: np.ndarray) -> float | None:
    """Spearman correlation: the Pearson correlation of ranks, where ties share their mean rank; see `pearson`."""
    from scipy.stats import rankdata

    if not np.isfinite(predictions).all():
        return None
    known = np.where(np.isnan(labels), np.nan, predictions)
    return pearson(*(rankdata(values, axis=0, nan_policy="omit") for values in (labels, known)))


def r2(labels: np.ndarray, predictions: np.ndarray) -> float | None:
    """Coefficient of determination: 1 - residual sum of squares / total sum of squares, averaged over targets.

    None if the labels of a target are all equal.
    """
    return _defined(weighted_r2(labels, predictions, np.ones((1, len(labels)))))


def weighted_pearson(labels: np.ndarray, predictions: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """`pearson` on each resample, (R,); NaN where a target has equal labels or none.

    Args:
        labels: (n, T).
        predictions: (n, T).
        weights_RN: how often each row occurs in each resample, (R, n).
    """
    known = ~np.isnan(labels)
    x, y = _centered(labels, known), _centered(predictions, known)
    rows = np.maximum(weights_RN @ known, 1)
    mean_x, mean_y = weights_RN @ x / rows, weights_RN @ y / rows
    covariance = weights_RN @ (x * y) / rows - mean_x * mean_y
    var_x, var_y = (weights_RN @ z**2 / rows - mean**2 for z, mean in ((x, mean_x), (y, mean_y)))
    varies = _varies(var_x, x) & _varies(var_y, y)
    found = np.divide(covariance, np.sqrt(np.where(varies, var_x * var_y, 1)), out=np.zeros_like(var_x), where=varies)
    return np.where(_varies(var_x, x), found, np.nan).mean(axis=1)


def weighted_r2(labels: np.ndarray, predictions: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """`r2` on each resample, (R,); NaN where a target has equal labels or none. Arguments as in `weighted_pearson`."""
    known = ~np.isnan(labels)
    x, rows = _centered(labels, known), np.maximum(weights_RN @ known, 1)
    total = weights_RN @ x**2 / rows - np.square(weights_RN @ x / rows)
    residual = weights_RN @ np.square(np.where(known, labels - predictions, 0)) / rows
    ratio = np.divide(residual, total, out=np.full_like(total, np.nan), where=_varies(total, x))
    return (1 - ratio).mean(axis=1)


def _centered(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Values minus the mean of the known ones; 0 where unknown."""
    mean = values.sum(axis=0, where=known) / np.maximum(known.sum(axis=0), 1)
    return np.where(known, values - mean, 0)


def _varies(variances: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Whether a variance, a difference of large numbers, is more than rounding error."""
    return variances > 1e-12 * np.square(values).mean(axis=0)


def _defined(values: np.ndarray) -> float | None:
    return None if math.isnan(values[0]) else float(values[0])
