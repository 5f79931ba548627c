"""AUROC and average precision of weighted rows, for many sets of weights at once.

Shapes: R sets of weights, N rows, C classes, G groups of rows with equal scores.
"""

from collections.abc import Callable

import numpy as np

OneVsRest = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Computes values (R,) from the weights of positive and negative rows in each group of equal scores, both (R, G), by
ascending score."""


def auroc(positive_RG: np.ndarray, negative_RG: np.ndarray) -> np.ndarray:
    """Probability that a positive row scores higher than a negative row; equal scores count one half."""
    below_RG = np.cumsum(negative_RG, axis=1) - negative_RG / 2
    return (positive_RG * below_RG).sum(1) / (positive_RG.sum(1) * negative_RG.sum(1))


def average_precision(positive_RG: np.ndarray, negative_RG: np.ndarray) -> np.ndarray:
    """Mean precision over positive rows, each at the threshold of its score (as in scikit-learn)."""
    hits_RG = np.cumsum(positive_RG[:, ::-1], axis=1)[:, ::-1]
    called_RG = hits_RG + np.cumsum(negative_RG[:, ::-1], axis=1)[:, ::-1]
    precision_RG = np.divide(hits_RG, called_RG, out=np.zeros_like(hits_RG), where=called_RG > 0)
    return (positive_RG * precision_RG).sum(1) / positive_RG.sum(1)


def weighted_ranking(
    measure: OneVsRest, labels_N: np.ndarray, probabilities_NC: np.ndarray, weights_RN: np.ndarray
) -> np.ndarray:
    """Ranking metric for each set of weights, (R,); NaN where all weighted rows have the same class.

    With two classes, class 1 is the positive class. With more classes, the one-vs-rest values are averaged, weighted by
    class size.
    """
    classes = [1] if probabilities_NC.shape[1] == 2 else np.unique(labels_N).tolist()
    total_R, sizes_R = np.zeros(len(weights_RN)), np.zeros(len(weights_RN))
    single_R = np.zeros(len(weights_RN), dtype=bool)
    for label in classes:
        positive_RG, negative_RG = _groups(labels_N == label, probabilities_NC[:, label], weights_RN)
        size_R = positive_RG.sum(1)
        single_R |= (negative_RG.sum(1) == 0) | (size_R == 0 if len(classes) == 1 else False)
        with np.errstate(divide="ignore", invalid="ignore"):
            value_R = measure(positive_RG, negative_RG)
        total_R += np.where(size_R > 0, value_R, 0) * size_R
        sizes_R += size_R
    return np.divide(total_R, sizes_R, out=np.full_like(total_R, np.nan), where=~single_R)


def _groups(positive_N: np.ndarray, score_N: np.ndarray, weights_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of positive and negative rows in each group of equal scores, by ascending score."""
    order = np.argsort(score_N, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(score_N[order]) > 0))
    weights_RN = weights_RN[:, order].astype(np.float64)
    positive_RG = np.add.reduceat(weights_RN * positive_N[order], starts, axis=1)
    return positive_RG, np.add.reduceat(weights_RN, starts, axis=1) - positive_RG
