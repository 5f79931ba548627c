"""Find the bases of windows that lie in words which also occur in other sequences, on either strand."""

from collections.abc import Sequence

import numpy as np

from benchmarks.context_counts import Array
from ldarnet.alphabet import N, reverse_complement

WORD = 24
"""Bases per word; in genomes of up to some hundred million bases, words of this length rarely recur by chance."""


def in_training(windows: Array, train: Sequence[Array]) -> Array:
    """Whether each base of `windows` (w, L) lies in a word of `WORD` bases that occurs in `train`: (w, L) bool."""
    known = np.unique(np.concatenate([np.zeros(0, np.uint64), *(_words(piece)[0] for piece in train)]))
    covered = np.zeros(windows.shape, bool)
    for row, window in enumerate(windows):
        for ids, target in ((window, covered[row]), (reverse_complement(window), covered[row, ::-1])):
            words, starts = _words(ids)
            found = starts[_contains(known, words)]
            edges = np.zeros(len(ids) + 1, np.int64)
            np.add.at(edges, found, 1)
            np.add.at(edges, found + WORD, -1)
            target |= np.cumsum(edges[:-1]) > 0
    return covered


def _words(ids: Array) -> tuple[Array, Array]:
    """Encode the words (n,) of a sequence with two bits per base; also returns their starts; skips words with N."""
    count = max(len(ids) - WORD + 1, 0)
    words, clean = np.zeros(count, np.uint64), np.ones(count, bool)
    for offset in range(WORD):
        base = ids[offset : offset + count]
        words = (words << np.uint64(2)) | (base & 3).astype(np.uint64)
        clean &= base < N
    return words[clean], np.flatnonzero(clean)


def _contains(known: Array, words: Array) -> Array:
    if not len(known):
        return np.zeros(len(words), bool)
    return known[np.minimum(np.searchsorted(known, words), len(known) - 1)] == words
