"""The order of windows: from a position in the stream to a window of a source. Integers only; nothing stored a window.

Positions are dealt to `LANES` lanes in turn, and a lane reads *pieces*, runs of neighbouring windows, from end to end.
Whoever takes LANES positions that follow each other reads from as many places all over the set; whoever takes every
LANES-th position reads one place after the other. In steps, each of them a bijection:

1. The windows of a source are numbered along its contigs, from a place drawn anew in each epoch, and cut into pieces.
2. The pieces are permuted, and the windows of each group, a part of a piece, are permuted among themselves. This gives
   the *row* of an epoch. A source that fits into memory has pieces of one window: its row is a random permutation.
3. One source: the row is cut into LANES stretches of equal length, one for each lane.
   Several sources: lanes are cut into slots of as many windows as a piece has, and `Mixture` deals the slots to the
   sources. The slots that a source has side by side share a stretch of its row, and each reads a part from end to end;
   where its epoch ends inside, what is left of that epoch is shared first, then what the next one begins with.
"""

import numpy as np

from ldarnet.data.counter_rng import below, counter_hash, permute
from ldarnet.data.mixture import Mixture

LANES = 2**10
PIECE_BASES = 2**22
SLOT_BASES = 2**20
"""Bases in a piece where there are several sources, and after which a lane may go from one of them to another."""

GROUP_BASES = 2**18
POOL_BASES = 2**30
"""Sources of at most so many bases together are kept in memory."""

_ENDLESS = 2**50


class Shuffle:
    """Windows of some sources in an order that is a pure function of the key and the position.

    Attributes:
        windows: (s,) int64, windows in an epoch of each source.
        shares: (s,) float64, realised share of each source; exact over a round of `mixture.ROUND` slots.
    """

    def __init__(self, windows: np.ndarray, length: int, key: np.uint64, shares: np.ndarray) -> None:
        """Plan the order.

        Args:
            windows: (s,) windows of each source, at least 1.
            length: bases in a window.
            key: of the order.
            shares: (s,) positive, of each source; they sum to 1.
        """
        assert len(windows) == len(shares) and (windows > 0).all() and (shares > 0).all()
        self.windows = windows.astype(np.int64)
        order, mixture = counter_hash(key, np.arange(2))
        self._mixture = Mixture(shares, LANES, mixture)
        self.shares = self._mixture.slots / self._mixture.slots.sum()
        group, most = max(1, GROUP_BASES // length), (PIECE_BASES if len(windows) == 1 else SLOT_BASES) // GROUP_BASES
        self._slot = _ENDLESS if len(windows) == 1 else group * most
        # Lanes that read from one row at a time are never in the same piece: there are two pieces a lane at least.
        piece = group * np.clip(windows / (2 * LANES * shares * group), 1, most).astype(np.int64)
        small = windows * length <= POOL_BASES * np.maximum(shares, windows / windows.sum())
        self._group, self._piece = np.where(small, 1, group), np.where(small, 1, piece)
        self._keys = counter_hash(order, np.arange(len(windows)))

    def place(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What stands at positions (k,) from 0 to 2**52.

        Returns:
            Number of the source, its epoch, and the number of the window in that source: (k,) int64 each.
        """
        depth, lane = np.divmod(position, LANES)
        row, depth = np.divmod(depth, self._slot)
        source = self._mixture.source(row * LANES + lane)
        first, lanes, own = self._slots(source, row, lane)
        # Its number among all windows of its source in the order of time, and the stretch of those slots.
        epoch, number = np.divmod(first * self._slot + depth * lanes + own, self.windows[source])
        begin, end = ((slots * self._slot) - epoch * self.windows[source] for slots in (first, first + lanes))
        begin, end = np.maximum(begin, 0), np.minimum(end, self.windows[source])
        depth, lane = np.divmod(number - begin, lanes)
        length, longer = np.divmod(end - begin, lanes)
        return source, epoch, self._window(source, epoch, begin + lane * length + np.minimum(lane, longer) + depth)

    def taken(self, position: int) -> np.ndarray:
        """How many windows of each source stand before a position, (s,) int64; over `windows`, its epochs so far."""
        depth, lane = divmod(position, LANES)
        row, depth = divmod(depth, self._slot)
        first, lanes, own = self._slots(np.arange(len(self.windows)), np.array(row), np.array(lane))
        return first * self._slot + depth * lanes + own

    def _slots(
        self, source: np.ndarray, row: np.ndarray, lane: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Slots of a source before a row of slots, in that row, and in that row before a lane."""
        first, own, after = (self._mixture.before(source, row * LANES + place) for place in (0, lane, LANES))
        return first, after - first, own - first

    def _window(self, source: np.ndarray, epoch: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The window at a place of the row of an epoch."""
        windows, piece, group = self.windows[source], self._piece[source], self._group[source]
        keys = counter_hash(counter_hash(self._keys[source], epoch), np.arange(3)[:, None])
        whole = windows // piece
        number, offset = np.divmod(place, piece)
        # What is left over behind the last whole piece stays there; the numbering begins elsewhere in each epoch.
        moved = permute(np.minimum(number, np.maximum(whole - 1, 0)), np.maximum(whole, 1), keys[0])
        number = np.where(number < whole, moved, number)
        if (group > 1).any():
            begin = place // group * group
            inside = permute(place - begin, np.minimum(group, windows - begin), counter_hash(keys[1], begin))
            offset = offset // group * group + inside
        return (number * piece + offset + below(keys[2], windows)) % windows
