"""Base composition of a shard set. Every block is read once and counted four bases at a time."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ldarnet.data import ShardSet
from ldarnet.data.format import Block, unpack_bases
from ldarnet.data.index import Index
from ldarnet.errors import UserError
from sharding.executors import process_pool

KINDS = ("A", "C", "G", "T", "N", "other", "masked")
"""Counted categories: the four bases in either case, N, the other IUPAC codes, and soft-masked (lower-case) bases."""

GC_WINDOW = 10_000
GC_BINS = 100

_A, _C, _G, _T, _N, _OTHER, _MASKED = range(len(KINDS))
_CODES_OF = unpack_bases(np.arange(256, dtype=np.uint8)[:, None])
_COUNTS_OF = np.stack([np.equal(_CODES_OF, code).sum(axis=1) for code in range(4)], axis=1)
_GC_OF = (_COUNTS_OF[:, _C] + _COUNTS_OF[:, _G]).astype(np.uint8).tobytes()
_BLOCKS_PER_TASK = 32


@dataclass(slots=True)
class Counts:
    """Base counts of a set, or of some of its blocks.

    Attributes:
        letters: (species, splits + 1, 7) int64, number of bases of each category, in the order of `KINDS`. The last
            index of the second axis is for bases in no split.
        gc: (species, 100) int64, histogram of the GC fraction of 10 kb windows. Each block is divided into windows; an
            incomplete last window is skipped. Windows in which more than half of the codes are not A, C, G or T are
            also skipped.
    """

    letters: np.ndarray
    gc: np.ndarray

    @classmethod
    def zeros(cls, index: Index) -> "Counts":
        """Create counts that are all zero."""
        species, splits = len(index.species), len(index.splits)
        return cls(np.zeros((species, splits + 1, len(KINDS)), np.int64), np.zeros((species, GC_BINS), np.int64))

    def add(self, other: "Counts") -> None:
        """Add the counts of other blocks."""
        self.letters += other.letters
        self.gc += other.gc


class Segments:
    """Divides contigs into segments at the boundaries of the split intervals."""

    def __init__(self, index: Index) -> None:
        """Divide the contigs of ``index``."""
        self._first = np.concatenate(([0], np.cumsum(index.contigs.length)))
        rows = np.concatenate([np.zeros((0, 3), np.int64), *index.splits.values()])
        labels = np.repeat(np.arange(len(index.splits)), [len(rows) for rows in index.splits.values()])
        starts, stops = (self._first[rows[:, 0]] + rows[:, column] for column in (1, 2))
        self._edges = np.unique(np.concatenate((self._first, starts, stops)))
        self._labels = np.full(len(self._edges), len(index.splits))
        self._labels[np.searchsorted(self._edges, starts)] = labels

    def of(self, contig: int, start: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Divide an interval of a contig into segments.

        Returns:
            Two arrays: the (n + 1,) edges of the segments, relative to ``start``, and the (n,) indices of their splits.
            For a segment in no split, the index is the number of splits.
        """
        begin = int(self._first[contig]) + start
        first = int(np.searchsorted(self._edges, begin, side="right")) - 1
        last = int(np.searchsorted(self._edges, begin + length, side="left"))
        return np.clip(self._edges[first : last + 1] - begin, 0, length), self._labels[first:last]


def count_set(shards: ShardSet, workers: int, report: Callable[[int], None]) -> Counts:
    """Count the composition of a set.

    Args:
        shards: the set.
        workers: number of processes.
        report: called with the number of bases counted since the last call.

    Raises:
        UserError: a shard cannot be read or is damaged, or a process was killed.
    """
    total, blocks = Counts.zeros(shards.index), len(shards.index.blocks)
    tasks = (range(at, min(at + _BLOCKS_PER_TASK, blocks)) for at in range(0, blocks, _BLOCKS_PER_TASK))
    with process_pool(workers, _init_worker, shards) as pool:
        pending = {pool.submit(_count_task, task): task for task in islice(tasks, 2 * workers)}
        try:
            while pending:
                for done in wait(pending, return_when=FIRST_COMPLETED).done:
                    total.add(done.result())
                    report(int(shards.index.blocks.length[pending.pop(done)].sum()))
                    pending |= {pool.submit(_count_task, task): task for task in islice(tasks, 1)}
        except BrokenProcessPool:
            raise UserError(
                f"{shards.location}: a worker was killed, possibly by the out-of-memory killer; use fewer --workers"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return total


def count_blocks(shards: ShardSet, blocks: Sequence[int], segments: Segments) -> Counts:
    """Count the composition of the given blocks.

    Raises:
        UserError: a shard cannot be read or is damaged.
    """
    counts, columns = Counts.zeros(shards.index), shards.index.blocks
    shards.prefetch(blocks)
    for number in blocks:
        contig, block = int(columns.contig[number]), shards.load(number)
        species = int(shards.index.contigs.species[contig])
        edges, labels = segments.of(contig, int(columns.start[number]), block.length)
        at, codes = _other_codes(block)
        np.add.at(counts.letters[species], labels, _count_kinds(block, edges, at, codes))
        counts.gc[species] += _gc_histogram(block, at, codes)
    return counts


_shards: ShardSet
_segments: Segments


def _init_worker(shards: ShardSet) -> None:
    global _shards, _segments
    _shards, _segments = shards, Segments(shards.index)


def _count_task(blocks: range) -> Counts:
    return count_blocks(_shards, blocks, _segments)


def _other_codes(block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Find all codes other than A, C, G and T in a block.

    Returns:
        The (n,) positions of these codes in the block, and the (n,) 2-bit codes stored there as placeholders.
    """
    lengths = block.runs[:, 1] - block.runs[:, 0]
    before = np.cumsum(lengths) - lengths
    at = np.repeat(block.runs[:, 0] - before, lengths) + np.arange(lengths.sum())
    return at, block.packed[at >> 2] >> ((at & 3) << 1).astype(np.uint8) & 3


def _count_kinds(block: Block, edges: np.ndarray, at: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Count the bases of each category in each segment of a block.

    Args:
        block: the block.
        edges: (n + 1,) edges of the segments, relative to the block.
        at: positions from `_other_codes`.
        codes: placeholders from `_other_codes`.

    Returns:
        (n, 7) counts; the columns are in the order of `KINDS`.
    """
    counts = np.zeros((len(edges) - 1, len(KINDS)), dtype=np.int64)
    for row, (start, stop) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        counts[row, :4] = _count_codes(block.packed, start, stop)
    if len(at):
        owner = np.searchsorted(edges, at, side="right") - 1
        other = np.repeat(block.codes, block.runs[:, 1] - block.runs[:, 0])
        counts[:, :4] -= np.bincount(4 * owner + codes, minlength=4 * len(counts)).reshape(-1, 4)
        kinds = 2 * owner + (other != ord("N"))
        counts[:, _N : _OTHER + 1] = np.bincount(kinds, minlength=2 * len(counts)).reshape(-1, 2)
    counts[:, _MASKED] = np.diff(_bases_before(block.lower, edges))
    return counts


def _count_codes(packed: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return the (4,) counts of the 2-bit codes in bases [``start``, ``stop``)."""
    first, last = -(-start // 4), stop // 4
    if first > last:
        ends = unpack_bases(packed[last:first])[start % 4 : stop % 4]
        return np.bincount(ends, minlength=4)
    counts = np.bincount(packed[first:last], minlength=256) @ _COUNTS_OF
    head, tail = packed[start // 4 : first], packed[last : -(-stop // 4)]
    ends = np.concatenate((unpack_bases(head)[start % 4 :], unpack_bases(tail)[: stop % 4]))
    return counts + np.bincount(ends, minlength=4)


def _bases_before(runs: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """For each position, count the bases before it that are inside one of the (r, 2) ``runs``."""
    if not len(runs):
        return np.zeros(len(positions), dtype=np.int64)
    before = np.concatenate(([0], np.cumsum(runs[:, 1] - runs[:, 0])))
    started = np.searchsorted(runs[:, 0], positions)
    return before[started] - np.where(started, np.maximum(runs[started - 1, 1] - positions, 0), 0)


def _gc_histogram(block: Block, at: np.ndarray, codes: np.ndarray) -> np.ndarray:
    windows = block.length // GC_WINDOW
    inside = at < windows * GC_WINDOW
    owner, is_gc = at[inside] // GC_WINDOW, (codes[inside] == _C) | (codes[inside] == _G)
    # bytes.translate is several times as fast as indexing.
    packed = block.packed[: windows * GC_WINDOW // 4].tobytes().translate(_GC_OF)
    by_window = np.frombuffer(packed, dtype=np.uint8).reshape(windows, GC_WINDOW // 4)
    gc = by_window.sum(axis=1, dtype=np.uint16).astype(np.int64)
    gc -= np.bincount(owner[is_gc], minlength=windows)
    known = GC_WINDOW - np.bincount(owner, minlength=windows)
    counted = 2 * known >= GC_WINDOW
    share = gc[counted] * GC_BINS // known[counted]
    return np.bincount(np.minimum(share, GC_BINS - 1), minlength=GC_BINS)
