"""Chunk lengths by class of bases: coding, intron, intergenic, repeat, homopolymer and short tandem repeat.

Shapes: T positions of the axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ldarnet import alphabet
from ldarnet.genome.annotation import Transcript
from ldarnet.genomics.enrichment.landscape import Landscape
from ldarnet.genomics.enrichment.nulls.base import NullContext
from ldarnet.genomics.enrichment.nulls.kmers import MAX_K, fit_kmers
from ldarnet.genomics.enrichment.resampling import RESAMPLES

Part = Callable[[Transcript], Sequence[tuple[int, int]]]

HOMOPOLYMER = 6
"""Minimum length of a homopolymer, in bases."""
STR_BASES, STR_UNITS, STR_PERIODS = 12, 3, range(2, 7)
"""Minimum length of a short tandem repeat in bases and in units, and lengths of units."""
PREDICTED = 50_000
"""Maximum number of positions per class with a prediction from k-mers."""


@dataclass(frozen=True)
class ClassRow:
    """Boundaries within a class of bases.

    Attributes:
        region: class.
        bases: number of bases with a boundary probability.
        boundaries: number of boundaries that the model selects before these bases.
        bases_per_chunk: ratio of both; NaN without boundaries.
        low: lower end of its 95% interval, from the bootstrap over blocks.
        high: upper end.
        probability: mean boundary probability.
        kmers: its mean prediction from local k-mers.
        gc: share of G and C.
    """

    region: str
    bases: int
    boundaries: int
    bases_per_chunk: float
    low: float
    high: float
    probability: float
    kmers: float
    gc: float


def class_rows(context: NullContext, transcripts: Sequence[Transcript]) -> list[ClassRow]:
    """Chunk lengths of all classes that have bases in the landscape."""
    landscape = context.landscape
    classes = {"all": landscape.known, **region_classes(landscape, transcripts)}
    fit = fit_kmers(context, MAX_K)
    rows = []
    for name, mask in classes.items():
        at, rng = np.flatnonzero(mask & landscape.known), context.rng("class", name)
        if not len(at):
            continue
        boundary = landscape.boundary[at]
        low, high = _interval(boundary, landscape.blocks(at, context.block), rng)
        some = at if len(at) <= PREDICTED else np.sort(rng.choice(at, PREDICTED, replace=False))
        predicted = fit.predict(landscape, some)
        predicted = predicted[~np.isnan(predicted)]
        count, ids = int(boundary.sum()), landscape.ids[at]
        rows.append(
            ClassRow(
                region=name,
                bases=len(at),
                boundaries=count,
                bases_per_chunk=len(at) / count if count else float("nan"),
                low=low,
                high=high,
                probability=float(landscape.probability[at].mean(dtype=np.float64)),
                kmers=float(predicted.mean()) if len(predicted) else float("nan"),
                gc=float(((ids == alphabet.C) | (ids == alphabet.G)).mean()),
            )
        )
    return rows


def _interval(boundary: np.ndarray, block: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95% interval of bases per boundary; NaN for a single block."""
    bases, counts = np.bincount(block), np.bincount(block, boundary)
    if len(bases) < 2:
        return float("nan"), float("nan")
    weights = rng.multinomial(len(bases), np.full(len(bases), 1 / len(bases)), size=RESAMPLES)
    total = weights @ counts
    with np.errstate(divide="ignore"):
        ratios = np.where(total > 0, (weights @ bases) / total, np.inf)
    low, high = np.quantile(ratios, [0.025, 0.975], method="nearest")
    return float(low), float(high)


def region_classes(landscape: Landscape, transcripts: Sequence[Transcript]) -> dict[str, np.ndarray]:
    """Masks of the classes, (T,) bool each.

    Coding bases are in a coding segment, introns in no exon, and intergenic bases in no transcript; without
    transcripts, these classes are missing. Repeats are soft-masked bases; see also `homopolymers` and
    `short_tandem_repeats`. Classes may overlap.
    """
    found = {}
    if transcripts:
        coding, exons, spans = (_mask(landscape, transcripts, part) for part in (_coding, _exons, _span))
        gaps = _mask(landscape, transcripts, _introns)
        found = {"coding": coding, "intron": gaps & ~exons, "intergenic": ~spans}
    homopolymer = homopolymers(landscape.ids)
    return found | {
        "repeat": landscape.soft_masked,
        "homopolymer": homopolymer,
        "short tandem repeat": short_tandem_repeats(landscape.ids) & ~homopolymer,
    }


def _coding(transcript: Transcript) -> Sequence[tuple[int, int]]:
    return transcript.coding


def _exons(transcript: Transcript) -> Sequence[tuple[int, int]]:
    return [*transcript.exons, *transcript.coding]


def _introns(transcript: Transcript) -> Sequence[tuple[int, int]]:
    return transcript.introns


def _span(transcript: Transcript) -> Sequence[tuple[int, int]]:
    return [(transcript.start, transcript.end)]


def _mask(landscape: Landscape, transcripts: Sequence[Transcript], part: Part) -> np.ndarray:
    """Bases in parts of transcripts, (T,) bool."""
    edges = [np.zeros((0, 2), np.int64)]
    by_contig: dict[str, list[tuple[int, int]]] = {}
    for transcript in transcripts:
        by_contig.setdefault(transcript.contig, []).extend(part(transcript))
    for row, contig in enumerate(landscape.contigs):
        if not by_contig.get(contig):
            continue
        first, length, offset = (
            int(values[row]) for values in (landscape.starts, landscape.lengths, landscape.offsets)
        )
        edges.append(np.clip(np.array(by_contig[contig], np.int64) - first, 0, length) + offset)
    starts, ends = np.concatenate(edges).T
    return _covered(len(landscape.ids), starts, ends)


def homopolymers(ids: np.ndarray) -> np.ndarray:
    """Bases in runs of at least `HOMOPOLYMER` equal bases, (T,) bool."""
    return _repeats(ids, 1, HOMOPOLYMER)


def short_tandem_repeats(ids: np.ndarray) -> np.ndarray:
    """Bases in exact repeats of 2 to 6 bases, with at least `STR_UNITS` units and `STR_BASES` bases, (T,) bool."""
    masks = [_repeats(ids, period, max(STR_BASES, STR_UNITS * period)) for period in STR_PERIODS]
    return np.logical_or.reduce(masks)


def _repeats(ids: np.ndarray, period: int, minimum: int) -> np.ndarray:
    """Bases in repeats of a period with at least ``minimum`` bases."""
    equal = (ids[period:] == ids[:-period]) & (ids[period:] < alphabet.N)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], equal, [False])).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2] + period
    long = ends - starts >= minimum
    return _covered(len(ids), starts[long], ends[long])


def _covered(length: int, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Bases in at least one of the intervals, (length,) bool."""
    steps = np.zeros(length + 1, np.int32)
    np.add.at(steps, starts, 1)
    np.add.at(steps, ends, -1)
    return np.cumsum(steps)[:-1] > 0
