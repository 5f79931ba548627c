"""Counting the letters of a shard set: every block is read once, and counted four bases at a time."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ldarnet.data import ShardSet
from ldarnet.data.format import Block, unpack_bases
from ldarnet.data.index import Index
from ldarnet.errors import UserError

LETTERS = ("A", "C", "G", "T", "N", "other", "masked")
"""What is counted: the four bases in either case, N, the other codes of IUPAC, and lower case of any letter."""

GC_WINDOW = 10_000
GC_BINS = 100

_A, _C, _G, _T, _N, _OTHER, _MASKED = range(len(LETTERS))
_CODES_OF = unpack_bases(np.arange(256, dtype=np.uint8)[:, None])
_COUNTS_OF = np.stack([np.equal(_CODES_OF, code).sum(axis=1) for code in range(4)], axis=1)
_GC_OF = (_COUNTS_OF[:, _C] + _COUNTS_OF[:, _G]).astype(np.uint8).tobytes()
_BLOCKS_AT_A_TIME = 32


@dataclass(slots=True)
class Counts:
    """Letters of a set, or of some of its blocks.

    Attributes:
        letters: (species, splits + 1, 7) int64, in order of `LETTERS`; what is in no split comes last.
        gc: (species, 100) int64, windows of 10 kb by their share of G and C among A, C, G, T. Windows lie end to end
            from the start of each block; one of which more than half is other letters is left out.
    """

    letters: np.ndarray
    gc: np.ndarray

    @classmethod
    def zeros(cls, index: Index) -> "Counts":
        """Nothing counted yet."""
        species, splits = len(index.species), len(index.splits)
        return cls(np.zeros((species, splits + 1, len(LETTERS)), np.int64), np.zeros((species, GC_BINS), np.int64))

    def add(self, other: "Counts") -> None:
        """Count in what was counted elsewhere."""
        self.letters += other.letters
        self.gc += other.gc


class Segments:
    """All bases of a set, contig after contig, cut where a contig or an interval of a split begins or ends."""

    def __init__(self, index: Index) -> None:
        """Lay the splits of ``index`` out."""
        self._first = np.concatenate(([0], np.cumsum(index.contigs.length)))
        rows = np.concatenate([np.zeros((0, 3), np.int64), *index.splits.values()])
        labels = np.repeat(np.arange(len(index.splits)), [len(rows) for rows in index.splits.values()])
        starts, stops = (self._first[rows[:, 0]] + rows[:, column] for column in (1, 2))
        self._edges = np.unique(np.concatenate((self._first, starts, stops)))
        self._labels = np.full(len(self._edges), len(index.splits))
        self._labels[np.searchsorted(self._edges, starts)] = labels

    def of(self, contig: int, start: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Edges within a stretch of a contig, (n + 1,) counted from its start, and the splits between them, (n,)."""
        begin = int(self._first[contig]) + start
        first = int(np.searchsorted(self._edges, begin, side="right")) - 1
        last = int(np.searchsorted(self._edges, begin + length, side="left"))
        return np.clip(self._edges[first : last + 1] - begin, 0, length), self._labels[first:last]


def count_set(shards: ShardSet, workers: int, report: Callable[[int], None]) -> Counts:
    """Count all letters of a set in ``workers`` processes; ``report`` is told the bases that were counted since.

    Raises:
        UserError: a shard is missing, damaged or cannot be read, or a process was killed.
    """
    total, blocks = Counts.zeros(shards.index), len(shards.index.blocks)
    lots = (range(at, min(at + _BLOCKS_AT_A_TIME, blocks)) for at in range(0, blocks, _BLOCKS_AT_A_TIME))
    with ProcessPoolExecutor(workers, initializer=_begin, initargs=(shards,)) as pool:
        pending = {pool.submit(_count_lot, lot): lot for lot in islice(lots, 2 * workers)}
        try:
            while pending:
                for done in wait(pending, return_when=FIRST_COMPLETED).done:
                    total.add(done.result())
                    report(int(shards.index.blocks.length[pending.pop(done)].sum()))
                    pending |= {pool.submit(_count_lot, lot): lot for lot in islice(lots, 1)}
        except BrokenProcessPool:
            raise UserError(
                f"{shards.location}: a process was killed, perhaps for want of memory; use fewer --workers"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return total


def count_blocks(shards: ShardSet, blocks: Sequence[int], segments: Segments) -> Counts:
    """Count the letters of some blocks.

    Raises:
        UserError: as for `count_set`.
    """
    counts, columns = Counts.zeros(shards.index), shards.index.blocks
    shards.prefetch(blocks)
    for number in blocks:
        contig, block = int(columns.contig[number]), shards.load(number)
        species = int(shards.index.contigs.species[contig])
        edges, labels = segments.of(contig, int(columns.start[number]), block.length)
        at, codes = _others(block)
        np.add.at(counts.letters[species], labels, _letters(block, edges, at, codes))
        counts.gc[species] += _gc_histogram(block, at, codes)
    return counts


_shards: ShardSet
_segments: Segments


def _begin(shards: ShardSet) -> None:
    """What each process keeps from lot to lot."""
    global _shards, _segments
    _shards, _segments = shards, Segments(shards.index)


def _count_lot(blocks: range) -> Counts:
    return count_blocks(_shards, blocks, _segments)


def _others(block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Places of all letters but A, C, G, T, and the codes that stand there and mean nothing: (n,) each."""
    lengths = block.runs[:, 1] - block.runs[:, 0]
    behind = np.cumsum(lengths) - lengths
    at = np.repeat(block.runs[:, 0] - behind, lengths) + np.arange(lengths.sum())
    return at, block.packed[at >> 2] >> ((at & 3) << 1).astype(np.uint8) & 3


def _letters(block: Block, edges: np.ndarray, at: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Counts between edges, (n, 7), of the letters of a block."""
    counts = np.zeros((len(edges) - 1, len(LETTERS)), dtype=np.int64)
    for row, (start, stop) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        counts[row, :4] = _bases(block.packed, start, stop)
    if len(at):
        owner = np.searchsorted(edges, at, side="right") - 1
        letters = np.repeat(block.codes, block.runs[:, 1] - block.runs[:, 0])
        counts[:, :4] -= np.bincount(4 * owner + codes, minlength=4 * len(counts)).reshape(-1, 4)
        kinds = 2 * owner + (letters != ord("N"))
        counts[:, _N : _OTHER + 1] = np.bincount(kinds, minlength=2 * len(counts)).reshape(-1, 2)
    counts[:, _MASKED] = np.diff(_covered(block.lower, edges))
    return counts


def _bases(packed: np.ndarray, start: int, stop: int) -> np.ndarray:
    """How often each code stands in bases ``start`` to ``stop``, (4,): whole bytes by a table, the ends singly."""
    first, last = -(-start // 4), stop // 4
    if first > last:
        ends = unpack_bases(packed[last:first])[start % 4 : stop % 4]
        return np.bincount(ends, minlength=4)
    counts = np.bincount(packed[first:last], minlength=256) @ _COUNTS_OF
    head, tail = packed[start // 4 : first], packed[last : -(-stop // 4)]
    ends = np.concatenate((unpack_bases(head)[start % 4 :], unpack_bases(tail)[: stop % 4]))
    return counts + np.bincount(ends, minlength=4)


def _covered(runs: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Bases of the runs, (r, 2), that lie before each place."""
    if not len(runs):
        return np.zeros(len(places), dtype=np.int64)
    behind = np.concatenate(([0], np.cumsum(runs[:, 1] - runs[:, 0])))
    begun = np.searchsorted(runs[:, 0], places)
    return behind[begun] - np.where(begun, np.maximum(runs[begun - 1, 1] - places, 0), 0)


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
    told = 2 * known >= GC_WINDOW
    share = gc[told] * GC_BINS // known[told]
    return np.bincount(np.minimum(share, GC_BINS - 1), minlength=GC_BINS)
