"""Null model with other sequences: the bases of each element in random order, with the same dinucleotides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldarnet import alphabet
from ldarnet.genomics.enrichment.features import Loci
from ldarnet.genomics.enrichment.landscape import Landscape
from ldarnet.genomics.enrichment.nulls.base import NullContext
from ldarnet.genomics.enrichment.resampling import NullSample, exchange
from ldarnet.genomics.scoring import WindowInput

SHUFFLES = 9
"""Shuffles per locus."""
HALF = 10
"""Bases on both sides of a position that are shuffled; of elements, all bases are."""


def dinucleotide_shuffle(context: NullContext, kinds: Sequence[Loci]) -> list[NullSample | None]:
    """Compare loci with shuffles of their bases, in windows with the locus at the center."""
    return [_sample(context, loci) for loci in kinds]


def _sample(context: NullContext, loci: Loci) -> NullSample | None:
    rng, landscape = context.rng("shuffles", loci.name), context.landscape
    rows = np.arange(len(loci))
    if len(rows) > context.shuffled_loci:
        rows = np.sort(rng.choice(rows, context.shuffled_loci, replace=False))
    values = np.full((len(rows), 1 + SHUFFLES), np.nan)
    inputs: list[WindowInput] = []
    cuts: list[slice] = []
    for row in rows.tolist():
        low, width = int(loci.low[row]), int(loci.width[row])
        start, end = _window(landscape, low + width // 2, context.window)
        first, last = (low, low + width - 1) if loci.elements else (low + width // 2 - HALF, low + width // 2 + HALF)
        first, last = max(first, start), min(last, end)
        for number in range(1 + SHUFFLES):
            ids = landscape.ids[start:end].copy()
            if number:
                ids[first - start : last - start] = shuffled(ids[first - start : last - start], rng)
            inputs.append(WindowInput(ids, start))
            cuts.append(slice(low - start, low - start + width))
    signal = next(iter(context.scorer.chunks.values()))
    for at in range(0, len(inputs), context.batch):
        scores = context.scorer(inputs[at : at + context.batch])
        for number, score in enumerate(scores, start=at):
            values[divmod(number, 1 + SHUFFLES)] = score.signals[signal][cuts[number]].mean()
    complete = ~np.isnan(values[:, 0])
    sample = exchange(values[complete, 0], values[complete, 1:], context.permutations, rng)
    if sample is None:
        return None
    return NullSample(rows[complete][sample.rows], sample.observed, sample.expected, sample.means)


def _window(landscape: Landscape, center: int, window: int) -> tuple[int, int]:
    """Window around a position, within its interval."""
    row = int(np.searchsorted(landscape.offsets, center, side="right")) - 1
    offset, length = int(landscape.offsets[row]), int(landscape.lengths[row])
    start = max(min(center - window // 2, offset + length - window), offset)
    return start, min(start + window, offset + length)


def shuffled(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle token ids so that the number of each dinucleotide, and the first and the last base, stay.

    The result is uniform among all such sequences: an Eulerian path through the graph of dinucleotides, in which the
    last edges of the bases form a random tree that leads to the last base (Altschul and Erickson 1985, "Significance of
    nucleotide sequence alignments", Molecular Biology and Evolution 2; tree by random walk, as in Kandel et al. 1996).
    """
    if len(ids) < 4:
        return ids.copy()
    following: list[list[int]] = [[] for _ in range(alphabet.VOCAB_SIZE)]
    for left, right in zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True):
        following[left].append(right)
    last_edge: dict[int, int] = {}
    final = int(ids[-1])
    reached = {final}
    for base in range(alphabet.VOCAB_SIZE):
        if not following[base]:
            continue
        at = base
        while at not in reached:  # a walk until it meets the tree; loops are erased, because later steps overwrite
            last_edge[at] = int(rng.integers(len(following[at])))
            at = following[at][last_edge[at]]
        at = base
        while at not in reached:
            reached.add(at)
            at = following[at][last_edge[at]]
    queues = []
    for base, edges in enumerate(following):
        order = list(edges)
        kept = [order.pop(last_edge[base])] if base in last_edge and base != final else []
        queues.append([*(order[i] for i in rng.permutation(len(order))), *kept])
    out, taken = [int(ids[0])], [0] * alphabet.VOCAB_SIZE
    for _ in range(len(ids) - 1):
        at = out[-1]
        out.append(queues[at][taken[at]])
        taken[at] += 1
    return np.array(out, ids.dtype)
