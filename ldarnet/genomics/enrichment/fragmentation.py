"""Fragmentation of elements: the number of chunks that an element is cut into, against random windows as long.

Shapes: T positions of the axis, N loci, C random windows of a locus.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ldarnet.genomics.enrichment.features import Loci
from ldarnet.genomics.enrichment.landscape import Landscape
from ldarnet.genomics.enrichment.nulls.base import NullContext, WindowMeans
from ldarnet.genomics.enrichment.resampling import exchange, false_discovery_rates, interval_of_mean, two_sided_p

if TYPE_CHECKING:
    from ldarnet.tokenization.base import Tokenization

K = 6
RANDOM_WINDOWS = 40
"""Random windows per locus."""


@dataclass(frozen=True)
class FragmentationRow:
    """Chunks per element of a kind, by one way to cut the genome.

    Attributes:
        feature: kind.
        tokens: `model`, `6-mers` or `bpe`.
        n: number of elements.
        bases: their mean length.
        chunks: mean number of chunks that they overlap.
        intact: share of them within one chunk.
        random: mean number of chunks that random windows of the same lengths overlap.
        effect: difference of both numbers of chunks.
        effect_low: lower end of its 95% interval, from the bootstrap over blocks.
        effect_high: upper end.
        p: two-sided permutation p-value; the number of each element is exchanged with those of its random windows.
        q: false discovery rate over all rows.
    """

    feature: str
    tokens: str
    n: int
    bases: float
    chunks: float
    intact: float
    random: float
    effect: float
    effect_low: float
    effect_high: float
    p: float
    q: float


def fragmentation_rows(
    context: NullContext, kinds: Sequence[Loci], bpe: Tokenization | None = None
) -> list[FragmentationRow]:
    """Count chunks of the kinds whose windows are elements.

    Args:
        context: the boundaries and settings.
        kinds: loci of each kind.
        bpe: a byte-pair encoding to compare with.
    """
    elements = [loci for loci in kinds if loci.elements]
    if not elements:
        return []
    rows = []
    for tokens, boundary in _segmentations(context.landscape, bpe).items():
        inside = WindowMeans(np.where(context.landscape.known, boundary, np.nan))
        rows += [row for loci in elements if (row := _row(context, loci, tokens, inside)) is not None]
    q_values = false_discovery_rates([row.p for row in rows])
    rows = [replace(row, q=q) for row, q in zip(rows, q_values, strict=True)]
    order = [loci.name for loci in elements]
    return sorted(rows, key=lambda row: order.index(row.feature))


def _row(context: NullContext, loci: Loci, tokens: str, inside: WindowMeans) -> FragmentationRow | None:
    landscape, rng = context.landscape, context.rng("fragmentation", loci.name)
    bases = loci.width - 1
    # Boundaries strictly inside: those before the second to the last base.
    low_NC = rng.choice(np.flatnonzero(landscape.known), (len(loci), RANDOM_WINDOWS)) - (bases // 2)[:, None]
    low = np.column_stack((loci.low, low_NC)) + 1
    gaps = np.maximum(bases - 1, 1)[:, None]
    chunks = np.where(bases[:, None] > 1, 1 + inside(low, gaps) * gaps, 1.0)
    sample = exchange(chunks[:, 0], chunks[:, 1:], context.permutations, rng)
    if sample is None:
        return None
    difference = sample.observed - sample.expected
    blocks = landscape.blocks(loci.anchor[sample.rows], context.block)
    effect_low, effect_high = interval_of_mean(difference, blocks, rng)
    return FragmentationRow(
        feature=loci.name,
        tokens=tokens,
        n=len(difference),
        bases=float(bases[sample.rows].mean()),
        chunks=float(sample.observed.mean()),
        intact=float((sample.observed < 1.5).mean()),
        random=float(sample.expected.mean()),
        effect=float(difference.mean()),
        effect_low=effect_low,
        effect_high=effect_high,
        p=two_sided_p(float(sample.observed.mean()), sample.means),
        q=math.nan,
    )


def _segmentations(landscape: Landscape, bpe: Tokenization | None) -> Mapping[str, np.ndarray]:
    """Name -> whether a chunk or token begins at each position, (T,) bool; tokens begin with the interval or contig."""
    found = {"model": landscape.boundary, f"{K}-mers": np.zeros(len(landscape.ids), bool)}
    if bpe is not None:
        found["bpe"] = np.zeros(len(landscape.ids), bool)
    for offset, start, length in zip(
        landscape.offsets.tolist(), landscape.starts.tolist(), landscape.lengths.tolist(), strict=True
    ):
        found[f"{K}-mers"][offset : offset + length] = np.arange(start, start + length) % K == 0
        if bpe is not None:
            ends = np.cumsum(bpe.encoded_lengths(landscape.ids[offset : offset + length]))
            found["bpe"][offset + np.append(0, ends[:-1])] = True
    return found
