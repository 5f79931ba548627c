"""Count how often each base occurs in each context of neighboring bases; contexts may contain unknown bases."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ldarnet.alphabet import reverse_complement

BASES = 4
UNKNOWN = 4
"""Id of an unknown base; N, [MASK] and [PAD] are mapped to it."""
REACH = 8
"""Maximum number of context bases on each side."""
DENSE = 10
"""Contexts of up to this many bases are counted in a dense table, longer ones by binary search in sorted arrays."""
MAX_UNKNOWN = 3
"""Maximum number of unknown bases in a context longer than `DENSE`; each multiplies the lookups by four."""

Array = np.ndarray[Any, Any]


class CountTable:
    """Counts of how often each base occurs in each context.

    A context of order k consists of the neighbors at the first k of the `offsets`.

    Args:
        pieces: segments of ids; both strands are counted.
        offsets: positions of the context bases relative to the counted base.
    """

    def __init__(self, pieces: Sequence[Array], offsets: Sequence[int]) -> None:
        self.offsets = offsets
        # Join the segments, separated by so many unknown bases that no context spans two segments.
        gap = np.full(REACH, UNKNOWN, np.uint8)
        parts = [part for piece in pieces for part in (gap, np.minimum(piece, UNKNOWN).astype(np.uint8))]
        forward = np.concatenate([*parts, gap])
        strands = (forward, reverse_complement(forward))
        self._dense = self._count_dense(strands)
        self._sorted = self._sort_long(strands) if len(offsets) > DENSE else []

    def counts(self, context: Array, order: int) -> Array:
        """Look up how often each base occurs in each of n contexts; returns counts (n, 4).

        Args:
            context: (n, len(offsets)) ids of the context bases; only the first `order` columns are used.
            order: number of context bases to use.
        """
        if order <= DENSE:
            width = min(len(self.offsets), DENSE)
            code = np.full(len(context), 0, np.int64)
            for index in range(width):
                code = code * 5 + (context[:, index] if index < order else UNKNOWN)
            return self._dense[code].astype(np.float64)
        counts = np.zeros((len(context), BASES))
        unknown = context[:, :order] >= UNKNOWN
        for number in range(MAX_UNKNOWN + 1):
            rows = np.flatnonzero(unknown.sum(axis=1) == number)
            fills = np.array(list(itertools.product(range(BASES), repeat=number)), np.uint8)
            filled = np.repeat(context[rows, :order], len(fills), axis=0)
            filled[np.repeat(unknown[rows], len(fills), axis=0)] = np.tile(fills, (len(rows), 1)).ravel()
            counts[rows] = self._count_long(filled).reshape(len(rows), len(fills), BASES).sum(axis=1)
        return counts

    def is_usable(self, context: Array, order: int) -> Array:
        """Whether `counts` may be used for each context: (n,) bool.

        The context base at index ``order - 1`` must be known. If `order` is above `DENSE`, at most `MAX_UNKNOWN` of the
        first `order` context bases may be unknown.
        """
        if order <= DENSE:
            return context[:, order - 1] < UNKNOWN
        few = (context[:, :order] >= UNKNOWN).sum(axis=1) <= MAX_UNKNOWN
        return few & (context[:, order - 1] < UNKNOWN)

    def _count_dense(self, strands: Sequence[Array]) -> Array:
        width = min(len(self.offsets), DENSE)
        counts = np.zeros(5**width * BASES, np.int64)
        for strand in strands:
            target, sides = _neighbors(strand, self.offsets[:width])
            code = np.zeros(len(target), np.int32)
            for side in sides:
                code = code * np.int32(5) + side
            code = code * np.int32(BASES) + target
            counts += np.bincount(code[target < UNKNOWN], minlength=len(counts))
        table = counts.astype(np.int32).reshape((5,) * width + (BASES,))
        # The entry for an unknown base is the sum of the entries for all bases.
        for axis in range(width):
            np.moveaxis(table, axis, 0)[UNKNOWN] = table.sum(axis=axis)
        return table.reshape(-1, BASES)

    def _sort_long(self, strands: Sequence[Array]) -> list[Array]:
        """Encode all contexts without unknown bases as integers; return one sorted array for each counted base."""
        found: list[list[Array]] = [[] for _ in range(BASES)]
        for strand in strands:
            target, sides = _neighbors(strand, self.offsets)
            code = self._pack(sides)
            known = np.logical_and.reduce([side < UNKNOWN for side in sides])
            for base in range(BASES):
                found[base].append(code[known & (target == base)])
        return [np.sort(np.concatenate(codes)) for codes in found]

    def _count_long(self, prefixes: Array) -> Array:
        """Count how often each base is the target of contexts that start with each of n prefixes: (n, 4).

        Args:
            prefixes: (n, order) ids of the first context bases, none of them unknown.
        """
        unused = np.uint32(2 * (len(self.offsets) - prefixes.shape[1]))
        first = self._pack(prefixes.T) << unused
        order = np.argsort(first)  # sorted queries make binary search cache-friendly
        first = first[order]
        last = first + ((np.uint32(1) << unused) - np.uint32(1))
        counts = np.empty((len(first), BASES))
        for base, seen in enumerate(self._sorted):
            counts[order, base] = np.searchsorted(seen, last, "right") - np.searchsorted(seen, first)
        return counts

    @staticmethod
    def _pack(bases: Any) -> Array:
        """Pack bases into a uint32, two bits each, with the first base in the highest bits."""
        code: Any = np.uint32(0)
        for base in bases:
            code = (code << np.uint32(2)) | (np.asarray(base).astype(np.uint32) & np.uint32(3))
        return code


def _neighbors(strand: Array, offsets: Sequence[int]) -> tuple[Array, list[Array]]:
    """Return the bases of a strand without the first and the last `REACH` bases, and their neighbors.

    Returns:
        The bases; and for each offset, the neighbors at this offset from the bases, as an array of the same length.
    """
    stop = len(strand) - REACH
    return strand[REACH:stop], [strand[REACH + offset : stop + offset] for offset in offsets]
