"""Null models that place the boundaries elsewhere; their statistic is the share of positions with a boundary."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ldarnet.genomics.enrichment.features import Loci
from ldarnet.genomics.enrichment.nulls.base import NullContext, WindowMeans, covered
from ldarnet.genomics.enrichment.resampling import NullSample


def random_boundaries(context: NullContext, kinds: Sequence[Loci]) -> list[NullSample | None]:
    """Place boundaries independently at each position, with the rate of the regions."""
    rate = _rate(context)
    return _samples(context, kinds, "random", lambda rng: lambda positions: rng.random(len(positions)) < rate)


def gaps_permuted(context: NullContext, kinds: Sequence[Loci]) -> list[NullSample | None]:
    """Shuffle the distances between boundaries within each selected interval, and rotate the result at random."""
    landscape = context.landscape
    parts = []
    for offset, length in zip(landscape.offsets.tolist(), landscape.lengths.tolist(), strict=True):
        known = offset + np.flatnonzero(landscape.known[offset : offset + length])
        at = np.flatnonzero(landscape.boundary[known])
        if len(at):
            parts.append((known, np.diff(np.append(at, at[0] + len(known)))))
    mask = np.zeros(len(landscape.ids), bool)

    def draw(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
        mask[:] = False
        for known, gaps in parts:
            ends = np.cumsum(rng.permutation(gaps)) + rng.integers(len(known))
            mask[known[ends % len(known)]] = True
        return lambda positions: mask[positions]

    return _samples(context, kinds, "gaps", draw)


def _rate(context: NullContext) -> float:
    return float(context.landscape.boundary[context.landscape.known].mean())


def _samples(
    context: NullContext,
    kinds: Sequence[Loci],
    name: str,
    draw: Callable[[np.random.Generator], Callable[[np.ndarray], np.ndarray]],
) -> list[NullSample | None]:
    """Samples of all kinds; each permutation places the boundaries once for all of them."""
    rng, rate = context.rng(name), _rate(context)
    windows = [covered(loci) for loci in kinds]
    means = np.empty((len(kinds), context.permutations))
    for number in range(context.permutations):
        boundary_at = draw(rng)
        for row, (positions, weights) in enumerate(windows):
            means[row, number] = boundary_at(positions) @ weights
    observed = WindowMeans(context.landscape.boundary.astype(np.float32))
    return [
        NullSample(np.arange(len(loci)), observed(loci.low, loci.width), np.full(len(loci), rate), row)
        for loci, row in zip(kinds, means, strict=True)
    ]
