"""The order of windows: maps a position of the stream to a window of a source. Nothing is stored per window.

Position ``p`` belongs to lane ``p % LANES``. A *piece* is a run of neighboring windows. A lane reads one piece after
another, each from start to end. Therefore, LANES consecutive positions are windows from loci all over the set, whereas
positions ``p``, ``p + LANES``, ``p + 2 * LANES``, ... of one lane are neighboring windows. The order is a composition
of bijections:

1. The windows of a source are numbered along its contigs, from an origin drawn per epoch, and cut into pieces.
2. The pieces are permuted. Each piece is cut into *groups*, and the windows of each group are permuted. The result is
   the *shuffled order* of an epoch. A source that fits into memory has pieces of one window: its shuffled order is a
   random permutation.
3. With one source, the shuffled order is cut into LANES intervals of equal length, one per lane.
   With several sources, lanes are cut into slots of equal length, and `Mixture` assigns the slots to the sources.
   Slots at the same depth in their lanes form a row. Together, the slots of a source in one row read an interval of
   the shuffled order of the source. The interval is cut into one part per slot, and each slot reads its part from start
   to end. If an epoch ends inside the interval, the interval is divided there, and each side is cut into one part per
   slot. Each slot reads its part of the ending epoch first.
"""

import numpy as np

from ldarnet.data.counter_rng import below, counter_hash, permute
from ldarnet.data.mixture import Mixture

LANES = 2**10
PIECE_BASES = 2**22
SLOT_BASES = 2**20
"""Bases in a slot, after which a lane may switch sources; also the maximum number of bases in a piece of a mixture."""

GROUP_BASES = 2**18
POOL_BASES = 2**30
"""Sources of at most this many bases in total are permuted window by window: their blocks fit into the cache."""

_ENDLESS = 2**50


class Shuffle:
    """Order of the windows of one or more sources, a pure function of the key and the position.

    Attributes:
        windows: (s,) int64, number of windows in one epoch of each source.
        shares: (s,) float64, actual share of each source: its fraction of the slots in a round (`mixture.ROUND` slots).
    """

    def __init__(self, windows: np.ndarray, length: int, key: np.uint64, shares: np.ndarray) -> None:
        """Plan the order.

        Args:
            windows: (s,) number of windows in one epoch of each source, at least 1.
            length: bases in a window.
            key: random key of the order.
            shares: (s,) target share of each source, positive; they sum to 1.
        """
        assert len(windows) == len(shares) and (windows > 0).all() and (shares > 0).all()
        self.windows = windows.astype(np.int64)
        order, mixture = counter_hash(key, np.arange(2))
        self._mixture = Mixture(shares, LANES, mixture)
        self.shares = self._mixture.slots / self._mixture.slots.sum()
        group = max(1, GROUP_BASES // length)
        max_groups = (PIECE_BASES if len(windows) == 1 else SLOT_BASES) // GROUP_BASES
        self._slot = _ENDLESS if len(windows) == 1 else group * max_groups
        # At least two pieces per lane, so that lanes reading one shuffled order at a time are never in the same piece.
        piece = group * np.clip(windows / (2 * LANES * shares * group), 1, max_groups).astype(np.int64)
        small = windows * length <= POOL_BASES * np.maximum(shares, windows / windows.sum())
        self._group, self._piece = np.where(small, 1, group), np.where(small, 1, piece)
        self._keys = counter_hash(order, np.arange(len(windows)))

    def locate(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the windows at ``position``, (k,) integers below 2**52.

        Returns:
            Index of the source, epoch of the source, and index of the window within the source: (k,) int64 each.
        """
        depth, lane = np.divmod(position, LANES)
        row, depth = np.divmod(depth, self._slot)
        source = self._mixture.source(row * LANES + lane)
        first, lanes, before = self._slots(source, row, lane)
        # Rank of the window among all windows of the source in stream order; then the interval that the slots divide.
        epoch, number = np.divmod(first * self._slot + depth * lanes + before, self.windows[source])
        begin, end = ((slots * self._slot) - epoch * self.windows[source] for slots in (first, first + lanes))
        begin, end = np.maximum(begin, 0), np.minimum(end, self.windows[source])
        depth, lane = np.divmod(number - begin, lanes)
        length, longer = np.divmod(end - begin, lanes)
        return source, epoch, self._window(source, epoch, begin + lane * length + np.minimum(lane, longer) + depth)

    def taken(self, position: int) -> np.ndarray:
        """Number of windows of each source before a position; divide by `windows` to get epochs.

        Returns:
            (s,) int64.
        """
        depth, lane = divmod(position, LANES)
        row, depth = divmod(depth, self._slot)
        first, lanes, before = self._slots(np.arange(len(self.windows)), np.array(row), np.array(lane))
        return first * self._slot + depth * lanes + before

    def _slots(
        self, source: np.ndarray, row: np.ndarray, lane: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Count the slots of a source before a row, in this row, and in the part of this row before a lane."""
        first, here, after = (self._mixture.before(source, row * LANES + column) for column in (0, lane, LANES))
        return first, after - first, here - first

    def _window(self, source: np.ndarray, epoch: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Look up windows by their source, epoch and place in the shuffled order of the epoch, elementwise."""
        windows, piece, group = self.windows[source], self._piece[source], self._group[source]
        keys = counter_hash(counter_hash(self._keys[source], epoch), np.arange(3)[:, None])
        whole = windows // piece
        number, offset = np.divmod(place, piece)
        # The incomplete piece at the end stays last; the origin of the numbering moves in each epoch.
        moved = permute(np.minimum(number, np.maximum(whole - 1, 0)), np.maximum(whole, 1), keys[0])
        number = np.where(number < whole, moved, number)
        if (group > 1).any():
            begin = place // group * group
            inside = permute(place - begin, np.minimum(group, windows - begin), counter_hash(keys[1], begin))
            offset = offset // group * group + inside
        return (number * piece + offset + below(keys[2], windows)) % windows
