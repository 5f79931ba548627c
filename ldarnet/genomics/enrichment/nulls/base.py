"""What null models have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ldarnet.genomics.enrichment.features import Loci
from ldarnet.genomics.enrichment.landscape import Landscape
from ldarnet.genomics.scoring import WindowScorer


@dataclass(frozen=True)
class NullContext:
    """Inputs of null models.

    Attributes:
        landscape: boundaries along the selected regions.
        scorer: the model, for null models with new sequences.
        window: bases that the model reads at once.
        batch: windows per forward pass.
        permutations: number of permutations.
        shuffled_loci: maximum number of loci per kind whose bases are shuffled.
        block: bases per block.
        seed: seed of all random choices.
    """

    landscape: Landscape
    scorer: WindowScorer
    window: int
    batch: int
    permutations: int
    shuffled_loci: int
    block: int
    seed: int

    def rng(self, *key: str) -> np.random.Generator:
        """Generator that depends on the seed and the key only, not on the other kinds and null models."""
        return np.random.default_rng([self.seed, *"/".join(key).encode()])


class WindowMeans:
    """Means over windows of the axis, by differences of running sums."""

    def __init__(self, values: np.ndarray) -> None:
        """Sum up; ``values`` (T,) may be NaN."""
        known = ~np.isnan(values)
        self._sums = np.cumsum(np.append(0.0, np.where(known, values, 0).astype(np.float64)))
        self._counts = np.cumsum(np.append(0, known))

    def __call__(self, low: np.ndarray, width: np.ndarray) -> np.ndarray:
        """Means over ``width`` positions from ``low`` on; NaN where a value is missing."""
        last = len(self._sums) - 1
        inside = (low >= 0) & (low + width <= last)
        first, end = np.clip(low, 0, last), np.clip(low + width, 0, last)
        complete = inside & (self._counts[end] - self._counts[first] == width)
        return np.where(complete, (self._sums[end] - self._sums[first]) / width, np.nan)


def covered(loci: Loci) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the windows of loci, and their weights in the mean over loci of the means over windows."""
    position = np.repeat(loci.low, loci.width) + ramps(loci.width)
    weight = np.repeat(1 / (len(loci) * loci.width), loci.width)
    unique, inverse = np.unique(position, return_inverse=True)
    return unique, np.bincount(inverse.reshape(-1), weight)


def ramps(width: np.ndarray) -> np.ndarray:
    """0, 1, ... for each of several windows, concatenated."""
    return np.arange(int(width.sum())) - np.repeat(np.cumsum(width) - width, width)
