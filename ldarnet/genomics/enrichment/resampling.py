"""Permutation p-values, block-bootstrap intervals and false discovery rates.

Shapes: N loci, C candidates of a locus, R permutations, B resamples, W offsets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
TIE = 1e-6
"""Differences of means up to this size count as ties: sums of float32 differ in rounding."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class NullSample:
    """Values at loci under a null hypothesis.

    Attributes:
        rows: (N,) indices of the loci that the null model is defined for.
        observed: (N,) values at these loci.
        expected: (N,) expected values under the null hypothesis.
        means: (R,) mean over the loci in each permutation.
    """

    rows: np.ndarray
    observed: np.ndarray
    expected: np.ndarray
    means: np.ndarray


def exchange(
    observed_N: np.ndarray, pool_NC: np.ndarray, permutations: int, rng: np.random.Generator
) -> NullSample | None:
    """Exchange the value of each locus at random with those of its candidates.

    Under the null hypothesis, the value of a locus and those of its candidates are exchangeable. The value itself is
    therefore one of those that a permutation draws from. Loci without candidates are dropped; candidates that are NaN
    do not count.

    Returns:
        The sample; None if no locus has candidates.
    """
    counts_N = (~np.isnan(pool_NC)).sum(axis=1)
    rows = np.flatnonzero(counts_N)
    if not len(rows):
        return None
    observed_N, counts_N = observed_N[rows].astype(np.float64), counts_N[rows]
    pool_NC = np.sort(pool_NC[rows].astype(np.float64), axis=1)  # NaN is sorted last
    all_ND = np.column_stack((observed_N, pool_NC))
    means = np.empty(permutations)
    for number in range(permutations):
        drawn = (rng.random(len(rows)) * (counts_N + 1)).astype(np.int64)
        means[number] = all_ND[np.arange(len(rows)), drawn].mean()
    return NullSample(rows, observed_N, np.nanmean(pool_NC, axis=1), means)


def two_sided_p(observed: float, means_R: np.ndarray) -> float:
    """Permutation p-value: twice the smaller tail, each with the observed value counted; at least 2 / (R + 1)."""
    above = 1 + int((means_R >= observed - TIE).sum())
    below = 1 + int((means_R <= observed + TIE).sum())
    return min(1.0, 2 * min(above, below) / (len(means_R) + 1))


def interval_of_mean(values_N: np.ndarray, block_N: np.ndarray, rng: np.random.Generator) -> Interval:
    """95% interval of a mean: percentiles of the bootstrap over blocks; NaN for a single block."""
    low, high = intervals_of_means(values_N[:, None], block_N, rng)
    return float(low[0]), float(high[0])


def intervals_of_means(
    values_NW: np.ndarray, block_N: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """95% intervals of the means of columns, (W,) each; NaN values do not count. See `interval_of_mean`."""
    blocks, width = int(block_N.max()) + 1 if len(block_N) else 0, values_NW.shape[1]
    if blocks < 2:
        return np.full(width, math.nan), np.full(width, math.nan)
    known = ~np.isnan(values_NW)
    sums, counts = np.zeros((2, blocks, width))
    np.add.at(sums, block_N, np.where(known, values_NW, 0))
    np.add.at(counts, block_N, known)
    weights = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=RESAMPLES)
    with np.errstate(invalid="ignore"):
        means = (weights @ sums) / (weights @ counts)
    some = known.any(axis=0)
    low, high = np.full((2, width), math.nan)
    low[some], high[some] = np.nanquantile(means[:, some], [0.025, 0.975], axis=0)
    return low, high


def false_discovery_rates(p_values: list[float]) -> list[float]:
    """q-values by Benjamini and Hochberg (1995); NaN for p-values that are NaN, which do not count as tests."""
    from scipy.stats import false_discovery_control

    p = np.array(p_values, np.float64)
    q, known = np.full(len(p), math.nan), ~np.isnan(p)
    if known.any():
        q[known] = false_discovery_control(p[known])
    return q.tolist()
