"""Embeddings of regions: of each base, of each chunk, or the mean over a region.

Only A, C, G and T count. Windows and their margins are those of tracks, so an embedding depends on the record, the
window and the margin. It depends neither on the other regions nor, except for rounding, on the size of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from ldarnet import alphabet
from ldarnet.genome.intervals import merge
from ldarnet.genomics.embedding_inputs import Source
from ldarnet.genomics.embeddings import Embedder, WindowEmbedding
from ldarnet.genomics.genome import GenomeRecord, has_bases
from ldarnet.genomics.regions import GenomeRegion
from ldarnet.genomics.stitching import INSIDE, NO_CHUNK, START
from ldarnet.genomics.windows import CoreWindow, WindowGrid

Level = Literal["sequence", "chunk", "base"]
LEVELS: tuple[Level, ...] = ("sequence", "chunk", "base")
CHUNK_ROW = np.dtype([("region", "<i8"), ("start", "<i8"), ("end", "<i8"), ("probability", "<f4")])
"""Row of a table of chunks: index of the region, positions on the contig, boundary probability at the first base."""


class Sink(Protocol):
    """Receives embeddings as they are computed."""

    def put(self, row: int, vectors: np.ndarray) -> None:
        """Store vectors, (n, D), as rows ``row`` to ``row + n - 1``."""
        ...

    def append(self, chunks: np.ndarray, vectors: np.ndarray) -> None:
        """Store the vectors of chunks, (n, D), after those before; ``chunks`` is (n,) of `CHUNK_ROW`."""
        ...


@dataclass(frozen=True, slots=True)
class CoreEmbedding:
    """Embeddings of consecutive bases.

    Attributes:
        start: position of the first base on the contig.
        states: (n, D) float32; NaN where there is no A, C, G or T.
        probability: (n,) float32, boundary probability; NaN where there is none.
        breaks: (n,) uint8, `INSIDE`, `START` or `NO_CHUNK`.
    """

    start: int
    states: np.ndarray
    probability: np.ndarray
    breaks: np.ndarray

    def within(self, start: int, end: int) -> CoreEmbedding:
        """The part between two positions on the contig."""
        part = slice(max(start - self.start, 0), max(end - self.start, 0))
        return CoreEmbedding(max(start, self.start), self.states[part], self.probability[part], self.breaks[part])


@dataclass(frozen=True, slots=True)
class _Job:
    record: GenomeRecord
    ids: np.ndarray
    regions: list[int]
    window: CoreWindow

    def bases(self, start: int, end: int) -> np.ndarray:
        return self.ids[start - self.record.start : end - self.record.start]

    def is_skipped(self, window: CoreWindow) -> bool:
        return not has_bases(self.bases(window.core_start, window.core_end))


class _Accumulator(Protocol):
    def add(self, piece: CoreEmbedding) -> None: ...

    def finish(self) -> None: ...


def embed(
    source: Source,
    embedder: Embedder,
    grid: WindowGrid,
    sink: Sink,
    level: Level,
    *,
    batch_bases: int,
    advance: Callable[[str, int], None],
) -> None:
    """Embed the regions of a source.

    With the level ``sequence``, row i is region i; it is NaN if the region has no A, C, G or T. With ``base``, the
    bases of all regions follow each other in the order of the regions, with NaN for bases other than A, C, G and T.
    With ``chunk``, the rows are the chunks that lie within a region and have an A, C, G or T.

    Args:
        source: the regions.
        embedder: model and layer.
        grid: windows.
        sink: receives the embeddings.
        level: what a row is.
        batch_bases: bases per forward pass, padding included; at least one window.
        advance: called for each window with the contig and the number of bases of regions that it completes.
    """
    first_rows = np.cumsum([0, *(region.end - region.start for region in source.regions)])

    def accumulator(index: int) -> _Accumulator:
        region = source.regions[index]
        if level == "sequence":
            return _Mean(index, sink, embedder.width)
        if level == "base":
            return _Bases(int(first_rows[index]) - region.start, sink)
        return _Chunks(index, sink, ends[index] == region.end, region.end)

    ends: dict[int, int] = {}
    waiting: list[int] = []
    active: dict[int, _Accumulator] = {}
    record: GenomeRecord | None = None
    for job, piece in _cores(source, embedder, grid, batch_bases, chunks=level == "chunk"):
        if job.record is not record:
            assert not waiting and not active
            record = job.record
            waiting = sorted(job.regions, key=lambda index: source.regions[index].start, reverse=True)
            ends = {index: _end(source.regions[index], record, chunks=level == "chunk") for index in waiting}
        core_end = job.window.core_end
        while waiting and source.regions[waiting[-1]].start < core_end:
            index = waiting.pop()
            active[index] = accumulator(index)
        done = 0
        for index in list(active):
            region = source.regions[index]
            active[index].add(piece.within(region.start, ends[index]))
            done += max(min(core_end, region.end) - max(job.window.core_start, region.start), 0)
            if ends[index] <= core_end:
                active.pop(index).finish()
        advance(job.record.contig, done)


def _end(region: GenomeRegion, record: GenomeRecord, *, chunks: bool) -> int:
    """End of a region; with the base after it if that shows whether the last chunk ends with the region."""
    return min(region.end + 1, record.end) if chunks else region.end


def _cores(
    source: Source, embedder: Embedder, grid: WindowGrid, batch_bases: int, *, chunks: bool
) -> Iterator[tuple[_Job, CoreEmbedding]]:
    """Yield the windows that overlap regions, record by record and in order, with the embeddings of their cores."""
    for group in _groups(_jobs(source, grid, chunks=chunks), batch_bases):
        scored = [job for job in group if not job.is_skipped(job.window)]
        inputs = [job.bases(job.window.start, job.window.end) for job in scored]
        found = iter(embedder(inputs)) if inputs else iter(())
        for job in group:
            yield job, _core(job, grid, None if job.is_skipped(job.window) else next(found), embedder.width)


def _jobs(source: Source, grid: WindowGrid, *, chunks: bool) -> Iterator[_Job]:
    for record, ids, regions in source.records():
        found = [source.regions[index] for index in regions]
        intervals = np.array([(0, region.start, _end(region, record, chunks=chunks)) for region in found], np.int64)
        for window in grid.over(record, merge(intervals)[:, 1:]):
            yield _Job(record, ids, regions, window)


def _groups(jobs: Iterator[_Job], batch_bases: int) -> Iterator[list[_Job]]:
    """Group consecutive windows into batches of at most ``batch_bases``, with padding."""
    group: list[_Job] = []
    longest = 0
    for job in jobs:
        longest = max(longest, length := job.window.end - job.window.start)
        if group and longest * (len(group) + 1) > batch_bases:
            yield group
            group, longest = [], length
        group.append(job)
    if group:
        yield group


def _core(job: _Job, grid: WindowGrid, found: WindowEmbedding | None, width: int) -> CoreEmbedding:
    """Embeddings of the core of a window; a core without A, C, G or T has none."""
    window = job.window
    length = window.core_end - window.core_start
    if found is None:
        nan = np.full(length, np.nan, np.float32)
        return CoreEmbedding(
            window.core_start, np.full((length, width), np.nan, np.float32), nan, np.full(length, NO_CHUNK, np.uint8)
        )
    core = slice(window.core_start - window.start, window.core_end - window.start)
    states = found.states[core].copy()
    states[job.bases(window.core_start, window.core_end) >= alphabet.N] = np.nan
    breaks = np.where(found.starts[core], np.uint8(START), np.uint8(INSIDE))
    if window.core_start == job.record.start or job.is_skipped(grid.core_at(job.record, window.core_start - 1)):
        breaks[0] = START
    return CoreEmbedding(window.core_start, states, found.probability[core], breaks)


class _Mean:
    """Mean over the bases of a region."""

    def __init__(self, row: int, sink: Sink, width: int) -> None:
        self._row, self._sink = row, sink
        self._sum, self._count = np.zeros(width), 0

    def add(self, piece: CoreEmbedding) -> None:
        self._sum += np.nansum(piece.states, axis=0, dtype=np.float64)
        self._count += int((~np.isnan(piece.states[:, 0])).sum())

    def finish(self) -> None:
        mean = self._sum / self._count if self._count else np.full_like(self._sum, np.nan)
        self._sink.put(self._row, mean[None].astype(np.float32))


class _Bases:
    """Embeddings of the bases of a region."""

    def __init__(self, offset: int, sink: Sink) -> None:
        self._offset, self._sink = offset, sink

    def add(self, piece: CoreEmbedding) -> None:
        self._sink.put(self._offset + piece.start, piece.states)

    def finish(self) -> None:
        pass


class _Chunks:
    """Means over the chunks that lie within a region; the last one only if the record ends with the region."""

    def __init__(self, region: int, sink: Sink, complete: bool, end: int) -> None:
        self._region, self._sink, self._complete, self._end = region, sink, complete, end
        self._open: tuple[np.ndarray, np.ndarray, int] | None = None  # row, sum, count

    def add(self, piece: CoreEmbedding) -> None:
        edges = np.flatnonzero(piece.breaks)
        known = ~np.isnan(piece.states[:, 0])
        states = np.where(known[:, None], piece.states, 0).astype(np.float64)
        first = int(edges[0]) if len(edges) else len(states)
        if self._open is not None:
            row, total, count = self._open
            self._open = row, total + states[:first].sum(0), count + int(known[:first].sum())
        if not len(edges):
            return
        self._close(piece.start + first)
        rows = np.zeros(len(edges), CHUNK_ROW)
        rows["region"], rows["start"], rows["probability"] = self._region, piece.start + edges, piece.probability[edges]
        rows["end"][:-1] = rows["start"][1:]
        sums, counts = np.add.reduceat(states, edges), np.add.reduceat(known, edges, dtype=np.int64)
        is_chunk = piece.breaks[edges] == START
        self._write(rows[:-1], sums[:-1], np.where(is_chunk, counts, 0)[:-1])
        self._open = (rows[-1:], sums[-1], int(counts[-1])) if is_chunk[-1] else None

    def finish(self) -> None:
        if self._complete:
            self._close(self._end)

    def _close(self, end: int) -> None:
        if self._open is not None:
            row, total, count = self._open
            row["end"] = end
            self._write(row, total[None], np.array([count]))

    def _write(self, rows: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> None:
        some = counts > 0
        if some.any():
            self._sink.append(rows[some], (sums[some] / counts[some, None]).astype(np.float32))
