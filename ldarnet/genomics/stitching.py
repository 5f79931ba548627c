"""Stitch the scores of overlapping windows into scores along a contig."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np

from ldarnet.genomics.genome import GenomeRecord, has_bases
from ldarnet.genomics.regions import Intervals
from ldarnet.genomics.scoring import WindowInput, WindowScorer, WindowScores
from ldarnet.genomics.windows import CoreWindow, WindowGrid

INSIDE, START, NO_CHUNK = 0, 1, 2
"""Values of breaks: a position inside a chunk, the first position of a chunk, a position without scores."""


@dataclass(frozen=True, slots=True)
class StitchedPiece:
    """Scores of consecutive positions of an interval.

    Attributes:
        interval: index of the interval.
        start: position of the first score on the contig.
        signals: name -> values, (n,) float32; NaN where there is no value.
        breaks: name of a set of chunks -> (n,) uint8, `INSIDE`, `START` or `NO_CHUNK`.
    """

    interval: int
    start: int
    signals: dict[str, np.ndarray]
    breaks: dict[str, np.ndarray]


def stitched(
    record: GenomeRecord,
    ids: np.ndarray,
    intervals: Intervals,
    grid: WindowGrid,
    scorer: WindowScorer,
    batch: int,
) -> Iterator[StitchedPiece]:
    """Score intervals of a record.

    Each position has the score of the window in whose core it is. Cores without A, C, G or T are skipped: their
    positions have no values and no chunks. A chunk begins at the first position of a record, and at the first position
    after a skipped core.

    Args:
        record: the record.
        ids: its token ids, (L,).
        intervals: sorted, disjoint intervals of the record.
        grid: windows.
        scorer: model that scores windows.
        batch: windows per forward pass.

    Yields:
        The scores of the intervals, in order.
    """
    windows = grid.over(record, intervals)

    def skipped(window: CoreWindow) -> bool:
        return not has_bases(ids[window.core_start - record.start : window.core_end - record.start])

    while group := list(islice(windows, batch)):
        scored = [window for window in group if not skipped(window)]
        inputs = [WindowInput(ids[w.start - record.start : w.end - record.start], w.start) for w in scored]
        scores = dict(zip(scored, scorer(inputs), strict=True)) if inputs else {}
        for window in group:
            forced = window in scores and (
                window.core_start == record.start or skipped(grid.core_at(record, window.core_start - 1))
            )
            piece = _core(window, scores.get(window), scorer, forced)
            yield from _cut(piece, intervals)


def _core(window: CoreWindow, scores: WindowScores | None, scorer: WindowScorer, forced: bool) -> StitchedPiece:
    """Scores of the core of a window; if ``forced``, a chunk begins at its first position."""
    length = window.core_end - window.core_start
    if scores is None:
        signals = {name: np.full(length, np.nan, np.float32) for name in scorer.signals}
        return StitchedPiece(
            0, window.core_start, signals, {name: np.full(length, NO_CHUNK, np.uint8) for name in scorer.chunks}
        )
    core = slice(window.core_start - window.start, window.core_end - window.start)
    breaks = {name: starts[core].astype(np.uint8) * START for name, starts in scores.starts.items()}
    if forced:
        for values in breaks.values():
            values[0] = START
    return StitchedPiece(0, window.core_start, {name: v[core] for name, v in scores.signals.items()}, breaks)


def _cut(piece: StitchedPiece, intervals: Intervals) -> Iterator[StitchedPiece]:
    """Yield the parts of the scores of a core that are in the intervals."""
    length = len(next(iter((piece.signals | piece.breaks).values())))
    first = int(np.searchsorted(intervals[:, 1], piece.start, side="right"))
    last = int(np.searchsorted(intervals[:, 0], piece.start + length, side="left"))
    for number in range(first, last):
        start, end = (int(np.clip(edge - piece.start, 0, length)) for edge in intervals[number])
        part = slice(start, end)
        yield StitchedPiece(
            number,
            piece.start + start,
            {name: values[part] for name, values in piece.signals.items()},
            {name: values[part] for name, values in piece.breaks.items()},
        )


def with_following_base(record: GenomeRecord, intervals: Intervals) -> Intervals:
    """Extend intervals that do not touch by one base, up to the end of the record.

    The additional base shows whether the last chunk of an interval ends with the interval.
    """
    return np.column_stack((intervals[:, 0], np.minimum(intervals[:, 1] + 1, record.end)))


@dataclass(frozen=True, slots=True)
class ChunkTable:
    """Chunks in order.

    Attributes:
        starts: (n,) int64, position of the first base.
        ends: (n,) int64, position after the last base.
        start_probability: (n,) float32, boundary probability at the first base; NaN where there is none.
        mean_probability: (n,) float32, mean of the boundary probabilities of all bases that have one.
    """

    starts: np.ndarray
    ends: np.ndarray
    start_probability: np.ndarray
    mean_probability: np.ndarray


def assemble_chunks(
    pieces: Iterable[tuple[int, np.ndarray, np.ndarray]], end: int, *, complete: bool
) -> Iterator[ChunkTable]:
    """Assemble the chunks that lie within an interval.

    Args:
        pieces: position, boundary probabilities and breaks of the consecutive parts of the interval; if the record
            continues after the interval, with one base more (`with_following_base`).
        end: position after the last piece.
        complete: whether the record ends there, and thus the last chunk.

    Yields:
        Chunks, in order. A chunk that begins before the interval or ends after it is left out.
    """
    open_p, open_breaks = np.zeros(0, np.float32), np.zeros(0, np.uint8)
    for position, p, breaks in pieces:
        first = position - len(open_p)
        p, breaks = np.concatenate((open_p, p)), np.concatenate((open_breaks, breaks))
        edges = np.flatnonzero(breaks)
        if len(edges) > 1:
            yield _table(first, p, breaks, edges)
        rest = edges[-1] if len(edges) else len(p)  # nothing before the first edge
        open_p, open_breaks = p[rest:], breaks[rest:]
    if complete and len(open_p):
        breaks = np.append(open_breaks, np.uint8(NO_CHUNK))
        yield _table(end - len(open_p), np.append(open_p, np.nan), breaks, np.flatnonzero(breaks))


def stitched_chunks(
    record: GenomeRecord, ids: np.ndarray, intervals: Intervals, grid: WindowGrid, scorer: WindowScorer, batch: int
) -> Iterator[ChunkTable]:
    """Yield the chunks within intervals of a record, for the first set of chunks of a scorer; see `stitched`."""
    name, signal = next(iter(scorer.chunks.items()))
    extended = with_following_base(record, intervals)
    pieces = stitched(record, ids, extended, grid, scorer, batch)
    for index, group in groupby(pieces, key=lambda piece: piece.interval):
        end = int(extended[index, 1])
        parts = ((piece.start, piece.signals[signal], piece.breaks[name]) for piece in group)
        yield from assemble_chunks(parts, end, complete=end == intervals[index, 1])


def _table(first: int, p: np.ndarray, breaks: np.ndarray, edges: np.ndarray) -> ChunkTable:
    """Chunks between consecutive edges that begin with a start."""
    inside = slice(edges[0], edges[-1])
    known = ~np.isnan(p[inside])
    offsets = edges[:-1] - edges[0]
    sums = np.add.reduceat(np.where(known, p[inside], 0).astype(np.float64), offsets)
    counts = np.add.reduceat(known, offsets, dtype=np.int64)
    is_chunk = breaks[edges[:-1]] == START
    with np.errstate(invalid="ignore"):
        means = (sums / counts).astype(np.float32)
    starts, ends = edges[:-1][is_chunk], edges[1:][is_chunk]
    return ChunkTable(first + starts, first + ends, p[starts], means[is_chunk])
