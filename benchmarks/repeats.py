"""Find which bases of a window lie in a k-mer that also occurs in the training bases, on either strand."""

from collections.abc import Sequence

import numpy as np

from benchmarks.context_counts import Array
from ldarnet.alphabet import N, reverse_complement

KMER_LENGTH = 24
"""k; in genomes of up to a few hundred million bases, k-mers of this length rarely recur by chance."""


def in_training(windows: Array, train: Sequence[Array]) -> Array:
    """Whether each base of `windows` (w, L) lies in a k-mer that occurs in `train` on either strand: (w, L) bool."""
    known = np.unique(np.concatenate([np.zeros(0, np.uint64), *(_kmers(piece)[0] for piece in train)]))
    covered = np.zeros(windows.shape, bool)
    for row, window in enumerate(windows):
        for ids, target in ((window, covered[row]), (reverse_complement(window), covered[row, ::-1])):
            kmers, starts = _kmers(ids)
            found = starts[_contains(known, kmers)]
            edges = np.zeros(len(ids) + 1, np.int64)
            np.add.at(edges, found, 1)
            np.add.at(edges, found + KMER_LENGTH, -1)
            target |= np.cumsum(edges[:-1]) > 0
    return covered


def _kmers(ids: Array) -> tuple[Array, Array]:
    """Find the k-mers of a sequence that contain no N; return their codes (two bits per base) and their starts."""
    count = max(len(ids) - KMER_LENGTH + 1, 0)
    kmers, clean = np.zeros(count, np.uint64), np.ones(count, bool)
    for offset in range(KMER_LENGTH):
        base = ids[offset : offset + count]
        kmers = (kmers << np.uint64(2)) | (base & 3).astype(np.uint64)
        clean &= base < N
    return kmers[clean], np.flatnonzero(clean)


def _contains(known: Array, kmers: Array) -> Array:
    if not len(known):
        return np.zeros(len(kmers), bool)
    return known[np.minimum(np.searchsorted(known, kmers), len(known) - 1)] == kmers
