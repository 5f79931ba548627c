"""Segments of a split, from which windows are cut. Contig ends, split borders and long runs of N delimit segments."""

from dataclasses import dataclass

import numpy as np

from ldarnet.data.index import Index
from ldarnet.data.reader import ShardSet
from ldarnet.errors import UserError

MAX_LENGTH = 2**31 - 1
_SLAB = 2**14  # intervals processed together, so that temporaries fit into the CPU cache


@dataclass(frozen=True, slots=True)
class WindowSegments:
    """The segments that hold at least one window, in the order of the set, or grouped by species.

    Attributes:
        contig: (s,) int32, contig index.
        start: (s,) int64, first base.
        slack: (s,) int32, segment length modulo window length, in bases.
        first: (s + 1,) int64, index of the first window of each segment; the last entry is the total number of windows.
        skipped: number of segments that are too short for one window, and their total length in bases.
    """

    contig: np.ndarray
    start: np.ndarray
    slack: np.ndarray
    first: np.ndarray
    skipped: tuple[int, int]

    @property
    def total(self) -> int:
        """Number of windows."""
        return int(self.first[-1])

    def owner(self, window: np.ndarray) -> np.ndarray:
        """Index of the segment that contains each window, (k,).

        Args:
            window: (k,) window indices.
        """
        return np.searchsorted(self.first, window, side="right") - 1

    def locate(self, window: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Contig index and first base of each window, (k,) each, before the random offset of the epoch is added.

        Args:
            window: (k,) window indices.
            length: bases in a window.
        """
        owner = self.owner(window)
        return self.contig[owner], self.start[owner] + (window - self.first[owner]) * length


def find_segments(
    shards: ShardSet, split: str, length: int, max_n_run: int, species: np.ndarray | None = None
) -> WindowSegments:
    """Cut a split at every run of more than ``max_n_run`` N and keep the segments of at least ``length`` bases.

    Args:
        shards: the set.
        split: name of the split.
        length: bases in a window.
        max_n_run: longest run of codes other than A, C, G, T allowed in a window.
        species: indices of the species to keep, in ascending order; segments are then grouped by species. By default,
            all species are kept, and segments are in the order of the set.

    Raises:
        UserError: no such split, no window fits in the split, or ``length`` or ``max_n_run`` is out of range.
    """
    if not 1 <= length <= MAX_LENGTH:
        raise UserError(f"window length {length}: must be from 1 to {MAX_LENGTH}")
    if max_n_run < 0:
        raise UserError(f"max_n_run {max_n_run}: must be at least 0")
    index = shards.index
    if split not in index.splits:
        raise UserError(
            f"{shards.location}: no split {split!r}; use one of {', '.join(shards.splits)}, or build a set with "
            f"this split (`ldarnet shard --split {split}=CONTIG`)"
        )
    intervals = index.splits[split]
    if species is not None:
        of_interval = index.contigs.species[intervals[:, 0]]
        order = np.argsort(of_interval, kind="stable")
        intervals = intervals[order[np.isin(of_interval[order], species)]]
    slabs = [
        _fitting(index, intervals[begin : begin + _SLAB], length, max_n_run)
        for begin in range(0, len(intervals), _SLAB)
    ]
    contig, start, slack, windows = (
        np.concatenate([slab[column] for slab in slabs]) if slabs else np.zeros(0, dtype=np.int64)
        for column in range(4)
    )
    if not len(start):
        raise UserError(
            f"{shards.location}: split {split!r} ({shards.splits[split]} bases) has no window of {length} bases "
            f"between runs of more than {max_n_run} N; use a shorter window, a larger max_n_run or a larger split"
        )
    skipped = sum(slab[4] for slab in slabs), sum(slab[5] for slab in slabs)
    return WindowSegments(contig, start, slack, np.concatenate(([0], np.cumsum(windows, dtype=np.int64))), skipped)


def _fitting(
    index: Index, intervals: np.ndarray, length: int, max_n_run: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Cut intervals into segments.

    Returns:
        Contig index, start, slack and number of windows of each segment that holds a window, (s,) each; then the
        number and the total length in bases of the segments that are too short.
    """
    contig, begin, end = intervals.T
    contigs = slice(contig.min(), contig.max() + 1)
    runs = index.runs[index.first_run[contigs.start] : index.first_run[contigs.stop]]
    long = np.flatnonzero(runs[:, 1] - runs[:, 0] > max_n_run)
    # Use coordinates of the concatenated contigs, so that the runs and their ends are sorted.
    lengths = index.contigs.length[contigs]
    origin = np.cumsum(lengths) - lengths
    shift = np.repeat(origin, index.contigs.runs[contigs])[long]
    starts, stops = runs[long, 0] + shift, runs[long, 1] + shift
    origin = origin[contig - contigs.start]
    begin, end = begin + origin, end + origin
    first = np.searchsorted(stops, begin, side="right")
    inside = np.maximum(np.searchsorted(starts, end, side="left") - first, 0)
    # k runs within an interval leave k + 1 segments: before, between and after them.
    back = np.cumsum(inside + 1) - 1
    front = back - inside
    start, stop = np.empty((2, back[-1] + 1), dtype=np.int64)
    is_front, is_back = np.zeros((2, len(start)), dtype=bool)
    is_front[front] = is_back[back] = True
    run = np.arange(len(start) - len(back)) + np.repeat(first - front + np.arange(len(back)), inside)
    start[front], start[~is_front] = begin, stops[run]
    stop[back], stop[~is_back] = end, starts[run]
    # A run may extend beyond its interval.
    start[back], stop[front] = np.minimum(start[back], end), np.maximum(stop[front], begin)
    size = stop - start
    fits = np.flatnonzero(size >= length)
    interval = np.repeat(np.arange(len(back)), inside + 1)[fits]
    skipped = int(np.count_nonzero(size)) - len(fits), int(size.sum() - size[fits].sum())
    size = size[fits]
    windows = size // length
    slack = (size - windows * length).astype(np.int32)
    return contig[interval].astype(np.int32), start[fits] - origin[interval], slack, windows, *skipped
