"""Mixtures: which source of windows each slot of a stream belongs to, and how many slots that source had before."""

import numpy as np

from ldarnet.data.counter_rng import counter_hash

ROUND = 2**16
"""Slots after which the sources come in the same order again; in each round every source has its exact number."""


def allot(shares: np.ndarray, slots: int) -> np.ndarray:
    """Divide ``slots`` by shares (s,) that sum to 1: one for each source, the rest by largest remainder; (s,) int64.

    No source is off by a whole slot, unless some have a share of less than one slot.
    """
    assert 0 < len(shares) <= slots
    wanted = np.maximum(shares * slots - 1, 0)
    wanted *= (slots - len(shares)) / max(wanted.sum(), 1e-9)
    counts = np.floor(wanted).astype(np.int64)
    largest = np.argsort(counts - wanted, kind="stable")
    counts[largest[: slots - len(shares) - counts.sum()]] += 1
    return counts + 1


class Mixture:
    """An endless row of slots dealt to sources by their shares.

    The slots of a source are spread evenly over a round, and shuffled within each row of ``lanes`` slots. Of the first
    ``x`` slots, ``x`` a multiple of ``lanes``, a source of share ``p`` has ``p * x``, give or take ``1 + p * sources``.

    Attributes:
        slots: (s,) int64, slots of each source in a round.
    """

    def __init__(self, shares: np.ndarray, lanes: int, key: np.uint64) -> None:
        """Deal the slots of a round.

        Args:
            shares: (s,) of each source, above 0; they sum to 1.
            lanes: slots in a row, a divisor of `ROUND`.
            key: of the stream.
        """
        assert ROUND % lanes == 0
        self.slots = allot(shares, ROUND)
        self._first = np.cumsum(self.slots) - self.slots
        source = np.repeat(np.arange(len(shares)), self.slots)
        offset = counter_hash(key, np.arange(len(shares))) / 2**64
        due = (np.arange(ROUND) - self._first[source] + offset[source]) / self.slots[source]
        by_time = source[np.argsort(due, kind="stable")].reshape(-1, lanes)
        shuffled = np.argsort(counter_hash(key, len(shares) + np.arange(ROUND)).reshape(-1, lanes), axis=1)
        self._source = np.take_along_axis(by_time, shuffled, axis=1).ravel()
        # Slots by source and then by place: a number below which one source's slots can be counted.
        self._places = np.sort(self._source * ROUND + np.arange(ROUND))

    def source(self, slot: np.ndarray) -> np.ndarray:
        """The source of each slot, (k,) int64."""
        return self._source[slot % ROUND]

    def before(self, source: np.ndarray, slot: np.ndarray) -> np.ndarray:
        """How many slots before ``slot`` belong to ``source``, (k,) int64."""
        rounds, place = np.divmod(slot, ROUND)
        inside = np.searchsorted(self._places, source * ROUND + place) - self._first[source]
        return rounds * self.slots[source] + inside
