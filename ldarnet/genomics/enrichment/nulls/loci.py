"""Null models that compare loci with other loci of the same regions.

Shapes: N loci, M possible loci, C candidates of a locus.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldarnet import alphabet
from ldarnet.genomics.enrichment.features import Loci
from ldarnet.genomics.enrichment.nulls.base import NullContext, WindowMeans
from ldarnet.genomics.enrichment.resampling import NullSample, exchange

MIN_SHIFT, MAX_SHIFT = 50, 500
SHIFTS = 40
"""Candidates per locus."""
NEIGHBORS = 20
"""Matched loci per locus."""
POSSIBLE, MAX_POSSIBLE = 100, 200_000
"""Random loci to match from: per locus, and at most."""
REACH = 50
"""Bases on both sides whose composition is matched."""


def shifted(context: NullContext, kinds: Sequence[Loci]) -> list[NullSample | None]:
    """Compare loci with the positions 50 to 500 bases to either side."""
    means = WindowMeans(context.landscape.probability)
    samples = []
    for loci in kinds:
        rng = context.rng("shifted", loci.name)
        shift = rng.integers(MIN_SHIFT, MAX_SHIFT + 1, (len(loci), SHIFTS)) * rng.choice([-1, 1], (len(loci), SHIFTS))
        pool = means(loci.low[:, None] + shift, loci.width[:, None])
        samples.append(exchange(means(loci.low, loci.width), pool, context.permutations, rng))
    return samples


def matched(context: NullContext, kinds: Sequence[Loci]) -> list[NullSample | None]:
    """Compare loci with the most similar ones, by composition, among random loci that do not overlap them."""
    means = WindowMeans(context.landscape.probability)
    samples = []
    for loci in kinds:
        centers_NC, _ = matched_centers(context, loci)
        pool = means(centers_NC - (loci.width // 2)[:, None], loci.width[:, None])
        rng = context.rng("matched", loci.name)
        samples.append(exchange(means(loci.low, loci.width), pool, context.permutations, rng))
    return samples


def matched_centers(context: NullContext, loci: Loci) -> tuple[np.ndarray, np.ndarray]:
    """Centers of the windows of matched loci, (N, C), and their strands, 1 or -1.

    The composition is the numbers of A, C, G and T within `REACH` bases in the direction of the strand, and the GC
    content of the window. The candidates are the nearest neighbors by Euclidean distance of standardized values.
    """
    from scipy.spatial import KDTree

    landscape, rng = context.landscape, context.rng("matched centers", loci.name)
    taken = np.zeros(len(landscape.ids) + 1, np.int32)
    np.add.at(taken, np.maximum(loci.low - loci.width // 2, 0), 1)
    np.add.at(taken, np.minimum(loci.low + loci.width + loci.width // 2 + 1, len(taken) - 1), -1)
    free = np.flatnonzero(landscape.known & (np.cumsum(taken)[:-1] == 0))
    count = min(POSSIBLE * len(loci), MAX_POSSIBLE, len(free))
    if count == 0:
        return np.full((len(loci), 1), -1), np.ones((len(loci), 1), np.int64)
    possible_M, sign_M = rng.choice(free, count, replace=False), rng.choice([-1, 1], count)
    half = int(np.median(loci.width)) // 2
    ours = _composition(landscape.ids, loci.low + loci.width // 2, loci.sign, half)
    theirs = _composition(landscape.ids, possible_M, sign_M, half)
    scale = theirs.std(axis=0)
    scale[scale == 0] = 1
    _, nearest = KDTree(theirs / scale).query(ours / scale, k=np.arange(1, min(NEIGHBORS, count) + 1))
    return possible_M[nearest], sign_M[nearest]


def _composition(ids: np.ndarray, center: np.ndarray, sign: np.ndarray, half: int) -> np.ndarray:
    """Numbers of bases around positions, and GC content of their windows, (N, 5)."""
    around = ids[np.clip(center[:, None] + np.arange(-REACH, REACH), 0, len(ids) - 1)]
    counts = np.stack([(around == base).sum(axis=1) for base in range(alphabet.N)], axis=1).astype(np.float64)
    counts = np.where(sign[:, None] < 0, counts[:, ::-1], counts)  # A and T, C and G
    inner = around[:, max(REACH - max(half, 1), 0) : REACH + max(half, 1)]
    gc = ((inner == alphabet.C) | (inner == alphabet.G)).mean(axis=1)
    return np.column_stack((counts, gc))
