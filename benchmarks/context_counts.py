"""Counts of bases by the bases around them, which can be asked about contexts with unknown places."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ldarnet.alphabet import reverse_complement

BASES = 4
UNKNOWN = 4
"""Every id from N upwards."""
REACH = 8
"""Bases looked at to each side."""
DENSE = 10
"""Contexts up to this many bases are counted in a table with a place for unknown bases, longer ones as sorted lists."""
MOST_UNKNOWN = 3
"""A longer context with more unknown bases than this is not used: each multiplies the look-ups by four."""

Array = np.ndarray[Any, Any]


class CountTable:
    """How often each base was seen in each context, for every prefix of a list of places.

    Args:
        pieces: stretches of ids; both strands are counted.
        offsets: places of the context bases relative to the base, the first to be used first.
    """

    def __init__(self, pieces: Sequence[Array], offsets: Sequence[int]) -> None:
        self.offsets = offsets
        # Stretches are joined into one, kept apart by more unknown bases than any context reaches.
        gap = np.full(REACH, UNKNOWN, np.uint8)
        parts = [part for piece in pieces for part in (gap, np.minimum(piece, UNKNOWN).astype(np.uint8))]
        forward = np.concatenate([*parts, gap])
        strands = (forward, reverse_complement(forward))
        self._dense = self._count_dense(strands)
        self._sorted = self._sort_long(strands) if len(offsets) > DENSE else []

    def counts(self, context: Array, order: int) -> Array:
        """Counts (n, 4) of the bases seen in the first `order` bases of each context (n, len(offsets))."""
        if order <= DENSE:
            width = min(len(self.offsets), DENSE)
            code = np.full(len(context), 0, np.int64)
            for place in range(width):
                code = code * 5 + (context[:, place] if place < order else UNKNOWN)
            return self._dense[code].astype(np.float64)
        counts = np.zeros((len(context), BASES))
        unknown = context[:, :order] >= UNKNOWN
        for number in range(MOST_UNKNOWN + 1):
            rows = np.flatnonzero(unknown.sum(axis=1) == number)
            fills = np.array(list(itertools.product(range(BASES), repeat=number)), np.uint8)
            filled = np.repeat(context[rows, :order], len(fills), axis=0)
            filled[np.repeat(unknown[rows], len(fills), axis=0)] = np.tile(fills, (len(rows), 1)).ravel()
            counts[rows] = self._count_long(filled).reshape(len(rows), len(fills), BASES).sum(axis=1)
        return counts

    def informs(self, context: Array, order: int) -> Array:
        """Whether the base that `order` adds can be used, shape (n,)."""
        if order <= DENSE:
            return context[:, order - 1] < UNKNOWN
        few = (context[:, :order] >= UNKNOWN).sum(axis=1) <= MOST_UNKNOWN
        return few & (context[:, order - 1] < UNKNOWN)

    def _count_dense(self, strands: Sequence[Array]) -> Array:
        width = min(len(self.offsets), DENSE)
        counts = np.zeros(5**width * BASES, np.int64)
        for strand in strands:
            target, sides = _neighbours(strand, self.offsets[:width])
            code = np.zeros(len(target), np.int32)
            for side in sides:
                code = code * np.int32(5) + side
            code = code * np.int32(BASES) + target
            counts += np.bincount(code[target < UNKNOWN], minlength=len(counts))
        table = counts.astype(np.int32).reshape((5,) * width + (BASES,))
        # The place of an unknown base holds the sum over all of them.
        for axis in range(width):
            np.moveaxis(table, axis, 0)[UNKNOWN] = table.sum(axis=axis)
        return table.reshape(-1, BASES)

    def _sort_long(self, strands: Sequence[Array]) -> list[Array]:
        """Per base, the whole contexts it was seen in, as sorted numbers; a prefix is then a range of numbers."""
        found: list[list[Array]] = [[] for _ in range(BASES)]
        for strand in strands:
            target, sides = _neighbours(strand, self.offsets)
            code = self._pack(sides)
            known = np.logical_and.reduce([side < UNKNOWN for side in sides])
            for base in range(BASES):
                found[base].append(code[known & (target == base)])
        return [np.sort(np.concatenate(codes)) for codes in found]

    def _count_long(self, prefixes: Array) -> Array:
        """Counts (n, 4) of the bases seen in contexts that begin with n prefixes without unknown bases."""
        unused = np.uint32(2 * (len(self.offsets) - prefixes.shape[1]))
        first = self._pack(prefixes.T) << unused
        order = np.argsort(first)  # neighbouring searches in sorted lists share their way through memory
        first = first[order]
        last = first + ((np.uint32(1) << unused) - np.uint32(1))
        counts = np.empty((len(first), BASES))
        for base, seen in enumerate(self._sorted):
            counts[order, base] = np.searchsorted(seen, last, "right") - np.searchsorted(seen, first)
        return counts

    @staticmethod
    def _pack(bases: Any) -> Array:
        """Two bits a base into one uint32, the first base highest."""
        code: Any = np.uint32(0)
        for base in bases:
            code = (code << np.uint32(2)) | (np.asarray(base).astype(np.uint32) & np.uint32(3))
        return code


def _neighbours(strand: Array, offsets: Sequence[int]) -> tuple[Array, list[Array]]:
    """The bases of a strand that starts and ends with a gap, and what lies at each offset from them."""
    stop = len(strand) - REACH
    return strand[REACH:stop], [strand[REACH + offset : stop + offset] for offset in offsets]
