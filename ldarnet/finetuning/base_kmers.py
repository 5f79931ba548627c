"""Baseline for bases: frequencies of classes by the k-mer around the base.

Without a penalty, logistic regression on one-hot k-mers has the same predictions.

Shapes: L bases of a row, C classes.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from ldarnet.alphabet import N, T

SIZES = (1, 3, 5, 7, 9)
"""Lengths of k-mers; the validation rows select one."""
PSEUDO_COUNTS = (1.0, 10.0)
"""Weights of the frequencies of classes over all bases; the validation rows select one."""
SETTINGS = tuple(product(SIZES, PSEUDO_COUNTS))
"""Length and pseudo-count of each model to fit."""


@dataclass(frozen=True)
class BaseKmers:
    """Class probabilities by k-mer.

    Attributes:
        k: length of the k-mers, odd.
        probabilities: (4**k + 1, C); the last row is for k-mers with N or beyond the ends of the sequence.
    """

    k: int
    probabilities: np.ndarray

    @classmethod
    def fit(
        cls, ids: list[np.ndarray], labels: list[np.ndarray], classes: int, k: int, pseudo_count: float
    ) -> "BaseKmers":
        """Count the classes of labeled bases.

        Args:
            ids: token ids of each row, (L,).
            labels: class indices of each row, (L,); negative for bases without a label.
            classes: number of classes, C.
            k: length of the k-mers, odd.
            pseudo_count: weight of the frequencies of classes over all bases.
        """
        counts = np.zeros((4**k + 1) * classes)
        for row, label in zip(ids, labels, strict=True):
            known = label >= 0
            np.add.at(counts, kmer_codes(row, k)[known] * classes + label[known], 1)
        counts = counts.reshape(-1, classes)
        overall = counts.sum(axis=0) / counts.sum()
        return cls(k, (counts + pseudo_count * overall) / (counts.sum(axis=1, keepdims=True) + pseudo_count))

    def predict(self, ids: list[np.ndarray]) -> np.ndarray:
        """Class probabilities of the bases of all rows, one row after the other, (bases, C)."""
        return np.concatenate([self.probabilities[kmer_codes(row, self.k)] for row in ids])


def kmer_codes(ids: np.ndarray, k: int) -> np.ndarray:
    """Index of the k-mer around each base, (L,); 4**k if it contains N or reaches beyond the sequence."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(ids, k // 2, constant_values=N), k)
    codes = windows.astype(np.int64) @ 4 ** np.arange(k)[::-1]
    return np.where((windows <= T).all(axis=1), codes, 4**k)
