"""Ridge regression of values, some of which may be missing."""

from typing import Any

import numpy as np
from sklearn.linear_model import Ridge


def fit_ridge(features: Any, values: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit each target on the rows where its value is not NaN.

    Args:
        features: (n, D), dense or sparse.
        values: (n, T).
        penalty: penalty on the squared weights (scikit-learn's alpha).

    Returns:
        Weight (T, D) and bias (T,).
    """
    known = ~np.isnan(values)
    if known.all():
        found = Ridge(alpha=penalty).fit(features, values)
        return np.atleast_2d(found.coef_), np.atleast_1d(found.intercept_)
    of_targets = [
        fit_ridge(features[rows], values[rows, column : column + 1], penalty) for column, rows in enumerate(known.T)
    ]
    weights, biases = zip(*of_targets, strict=True)
    return np.concatenate(weights), np.concatenate(biases)
