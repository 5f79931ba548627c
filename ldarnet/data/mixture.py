"""Mixtures of sources: assign each slot of a stream to a source.

`ldarnet.data.order` explains slots and lanes.
"""

import numpy as np

from ldarnet.data.counter_rng import counter_hash

ROUND = 2**16
"""Slots in a round, after which the sequence of sources repeats. A round has a fixed number of slots per source."""


def allocate_slots(shares: np.ndarray, slots: int) -> np.ndarray:
    """Allocate slots to sources in proportion to their shares, by the largest remainder method.

    Every source gets at least one slot. If ``share * slots`` is at least 1 for every source, the number of slots of
    each source differs from this product by less than 1.

    Args:
        shares: (s,) share of each source; they sum to 1.
        slots: total number of slots, at least s.

    Returns:
        (s,) int64, number of slots of each source; they sum to ``slots``.
    """
    assert 0 < len(shares) <= slots
    target = np.maximum(shares * slots - 1, 0)
    target *= (slots - len(shares)) / max(target.sum(), 1e-9)
    counts = np.floor(target).astype(np.int64)
    largest = np.argsort(counts - target, kind="stable")
    counts[largest[: slots - len(shares) - counts.sum()]] += 1
    return counts + 1


class Mixture:
    """An endless sequence of slots, each assigned to a source. It repeats every `ROUND` slots (a round).

    The slots of each source are spread evenly over a round. Then each row of ``lanes`` consecutive slots is shuffled.
    If ``x`` is a multiple of ``lanes``, a source with share ``p`` has about ``p * x`` of the first ``x`` slots; the
    error is at most ``1 + p * s``, where ``s`` is the number of sources.

    Attributes:
        slots: (s,) int64, slots of each source per round.
    """

    def __init__(self, shares: np.ndarray, lanes: int, key: np.uint64) -> None:
        """Assign the slots of a round to sources.

        Args:
            shares: (s,) target share of each source, positive; they sum to 1.
            lanes: slots per row, a divisor of `ROUND`.
            key: random key of the assignment.
        """
        assert ROUND % lanes == 0
        self.slots = allocate_slots(shares, ROUND)
        self._first = np.cumsum(self.slots) - self.slots
        source = np.repeat(np.arange(len(shares)), self.slots)
        offset = counter_hash(key, np.arange(len(shares))) / 2**64
        due = (np.arange(ROUND) - self._first[source] + offset[source]) / self.slots[source]
        by_time = source[np.argsort(due, kind="stable")].reshape(-1, lanes)
        shuffled = np.argsort(counter_hash(key, len(shares) + np.arange(ROUND)).reshape(-1, lanes), axis=1)
        self._source = np.take_along_axis(by_time, shuffled, axis=1).ravel()
        # Slots sorted by source and then by index, so that a binary search counts the slots of a source.
        self._sorted = np.sort(self._source * ROUND + np.arange(ROUND))

    def source(self, slot: np.ndarray) -> np.ndarray:
        """Index of the source of each slot, (k,) int64."""
        return self._source[slot % ROUND]

    def before(self, source: np.ndarray, slot: np.ndarray) -> np.ndarray:
        """Number of slots of ``source`` before ``slot``, (k,) int64."""
        rounds, index = np.divmod(slot, ROUND)
        inside = np.searchsorted(self._sorted, source * ROUND + index) - self._first[source]
        return rounds * self.slots[source] + inside
