"""Metrics of regression: correlations and coefficient of determination, averaged over targets.

Shapes: n rows, T targets, R resamples.
"""

import numpy as np


def pearson(labels: np.ndarray, predictions: np.ndarray) -> float | None:
    """Pearson correlation of labels and predictions, both (n, T), averaged over targets.

    None if the labels of a target are all equal; 0 for a target whose predictions are all equal.
    """
    if _constant(labels).any():
        return None
    return float(np.mean(_correlations(labels, predictions)))


def spearman(labels: np.ndarray, predictions: np.ndarray) -> float | None:
    """Spearman correlation: the Pearson correlation of ranks, where ties share their mean rank; see `pearson`."""
    from scipy.stats import rankdata

    if not np.isfinite(predictions).all():
        return None
    return pearson(rankdata(labels, axis=0), rankdata(predictions, axis=0))


def r2(labels: np.ndarray, predictions: np.ndarray) -> float | None:
    """Coefficient of determination: 1 - residual sum of squares / total sum of squares, averaged over targets.

    None if the labels of a target are all equal.
    """
    if _constant(labels).any():
        return None
    residual_T = np.square(labels - predictions).sum(axis=0)
    return float(np.mean(1 - residual_T / np.square(labels - labels.mean(axis=0)).sum(axis=0)))


def weighted_pearson(labels: np.ndarray, predictions: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """`pearson` on each resample, (R,); NaN where a target has equal labels.

    Args:
        labels: (n, T).
        predictions: (n, T).
        weights_RN: how often each row occurs in each resample, (R, n).
    """
    x, y = labels - labels.mean(axis=0), predictions - predictions.mean(axis=0)
    rows = weights_RN.sum(axis=1, keepdims=True)
    mean_x, mean_y = weights_RN @ x / rows, weights_RN @ y / rows
    covariance = weights_RN @ (x * y) / rows - mean_x * mean_y
    var_x, var_y = (weights_RN @ z**2 / rows - mean**2 for z, mean in ((x, mean_x), (y, mean_y)))
    varies = _varies(var_x, x) & _varies(var_y, y)
    found = np.divide(covariance, np.sqrt(np.where(varies, var_x * var_y, 1)), out=np.zeros_like(var_x), where=varies)
    return np.where(_varies(var_x, x), found, np.nan).mean(axis=1)


def weighted_r2(labels: np.ndarray, predictions: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """`r2` on each resample, (R,); NaN where a target has equal labels. Arguments as in `weighted_pearson`."""
    x = labels - labels.mean(axis=0)
    rows = weights_RN.sum(axis=1, keepdims=True)
    total = weights_RN @ x**2 / rows - np.square(weights_RN @ x / rows)
    residual = weights_RN @ np.square(labels - predictions) / rows
    ratio = np.divide(residual, total, out=np.full_like(total, np.nan), where=_varies(total, x))
    return (1 - ratio).mean(axis=1)


def _constant(values: np.ndarray) -> np.ndarray:
    return np.ptp(values, axis=0) == 0


def _varies(variances: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Whether a variance, a difference of large numbers, is more than rounding error."""
    return variances > 1e-12 * np.square(values).mean(axis=0)


def _correlations(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Pearson correlation of each target, (T,); 0 if its predictions are all equal."""
    x, y = labels - labels.mean(axis=0), predictions - predictions.mean(axis=0)
    scale = np.sqrt(np.square(x).sum(axis=0) * np.square(y).sum(axis=0))
    usable = ~_constant(predictions) & (scale > 0)
    return np.divide((x * y).sum(axis=0), scale, out=np.zeros_like(scale), where=usable)
