"""Vectorized arithmetic on intervals: (n, 3) int64 with columns contig index, start and stop (0-based, half-open)."""

import numpy as np

Rows = np.ndarray


def merge(rows: Rows) -> Rows:
    """Sort intervals, and merge those that overlap or touch within a contig."""
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    if not len(rows):
        return rows
    # Contigs are laid end to end with gaps between them, so that the running maximum of stops never crosses contigs.
    shift = rows[:, 0] * (rows[:, 2].max() + 1)
    farthest = np.maximum.accumulate(rows[:, 2] + shift)
    begins = np.append(True, (rows[1:, 1] + shift[1:]) > farthest[:-1])
    ends = np.append(begins[1:], True)
    return np.stack((rows[begins, 0], rows[begins, 1], (farthest - shift)[ends]), axis=1)


def intersect(rows: Rows, others: Rows) -> Rows:
    """Intersection of two sets of intervals.

    The intervals within each set must be sorted and disjoint. Those of the result are also sorted and disjoint.
    """
    if not len(rows) or not len(others):
        return np.zeros((0, 3), dtype=np.int64)
    width = max(int(rows[:, 2].max()), int(others[:, 2].max())) + 1
    edges, other_edges = (table[:, :1] * width + table[:, 1:] for table in (rows, others))
    first = np.searchsorted(other_edges[:, 1], edges[:, 0], side="right")
    last = np.searchsorted(other_edges[:, 0], edges[:, 1], side="left")
    count = np.maximum(last - first, 0)
    row = np.repeat(np.arange(len(rows)), count)
    other = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + first[row]
    starts = np.maximum(rows[row, 1], others[other, 1])
    stops = np.minimum(rows[row, 2], others[other, 2])
    return np.stack((rows[row, 0], starts, stops), axis=1)


def subtract(rows: Rows, others: Rows, lengths: np.ndarray) -> Rows:
    """Remove ``others`` from ``rows``; ``lengths`` are the contig lengths.

    The intervals within each set must be sorted and disjoint.
    """
    return intersect(rows, _complement(others, lengths))


def total_bases(rows: Rows) -> int:
    """Total length of all intervals."""
    return int((rows[:, 2] - rows[:, 1]).sum())


def _complement(rows: Rows, lengths: np.ndarray) -> Rows:
    """Parts of the contigs that are in none of the intervals ``rows``."""
    contigs = np.arange(len(lengths))
    starts = np.concatenate((np.stack((contigs, np.zeros_like(lengths)), axis=1), rows[:, [0, 2]]))
    stops = np.concatenate((rows[:, :2], np.stack((contigs, lengths), axis=1)))
    starts, stops = (edges[np.lexsort((edges[:, 1], edges[:, 0]))] for edges in (starts, stops))
    gaps = np.column_stack((starts, stops[:, 1]))
    return gaps[gaps[:, 1] < gaps[:, 2]]
