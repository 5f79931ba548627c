"""Training windows and their order: a pure function of (content, seed, epoch, position)."""

from dataclasses import dataclass

import numpy as np

from ldarnet.alphabet import reverse_complement as other_strand
from ldarnet.data.order import counter_hash, permute, stream_key
from ldarnet.data.reader import ShardSet
from ldarnet.errors import UserError


@dataclass(frozen=True, slots=True)
class WindowKey:
    """Which window stands at a position: epoch, contig name, first base, and whether it is the other strand."""

    epoch: int
    contig: str
    start: int
    reverse: bool


@dataclass(frozen=True, slots=True)
class Stretches:
    """The stretches of a split that windows are cut from: inside one contig, one interval and free of long runs of N.

    Attributes:
        contig: (s,) contig number.
        start: (s,) first base.
        windows: (s,) whole windows that fit, at least 1.
        slack: (s,) bases left over when they are laid end to end.
        first: (s,) number of the first window of each stretch.
        left_out: stretches too short for one window, and the bases in them.
    """

    contig: np.ndarray
    start: np.ndarray
    windows: np.ndarray
    slack: np.ndarray
    first: np.ndarray
    left_out: tuple[int, int]

    @property
    def total(self) -> int:
        """Windows in all."""
        return int(self.windows.sum())

    def owner(self, window: np.ndarray) -> np.ndarray:
        """The stretch that each window number belongs to."""
        return np.searchsorted(self.first, window, side="right") - 1

    def place(self, window: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Contig number and first base of each window number when windows begin where their stretch begins."""
        owner = self.owner(window)
        return self.contig[owner], self.start[owner] + (window - self.first[owner]) * length


def find_stretches(shards: ShardSet, split: str, length: int, max_n_run: int) -> Stretches:
    """Cut a split at every run of more than ``max_n_run`` N and keep what holds at least one window of ``length``.

    Raises:
        UserError: no such split, or no window fits anywhere in it.
    """
    if length < 1:
        raise UserError(f"window length {length}: it must be at least 1")
    if max_n_run < 0:
        raise UserError(f"max_n_run {max_n_run}: it must be at least 0")
    if split not in shards.index.splits:
        raise UserError(
            f"{shards.folder}: no split {split!r}; it holds {', '.join(shards.splits)}. Build a set that has one "
            f"(`python -m sharding.build --split {split}=CONTIG`), or name another split"
        )
    pieces = [
        (contig, start, stop)
        for contig, begin, end in shards.index.splits[split].tolist()
        for start, stop in _between_long_runs(shards.index.contigs[contig].n_runs, begin, end, max_n_run)
        if stop > start
    ]
    contig, start, stop = np.array(pieces, dtype=np.int64).reshape(-1, 3).T
    windows, slack = np.divmod(stop - start, length)
    fits = windows > 0
    if not fits.any():
        raise UserError(
            f"{shards.folder}: split {split!r} ({shards.splits[split]} bases) has no window of {length} bases between "
            f"runs of more than {max_n_run} N; choose a shorter window, a larger max_n_run or a larger split"
        )
    left_out = int((~fits).sum()), int(slack[~fits].sum())
    first = np.cumsum(windows) - windows
    return Stretches(contig[fits], start[fits], windows[fits], slack[fits], first[fits], left_out)


class Windows:
    """Windows of one length over one split, in a new random order and at new random offsets in each epoch.

    A stretch of S bases gives ``S // length`` windows laid end to end from an offset of 0 to ``S % length`` that is
    drawn anew for each stretch and epoch, so that every epoch has the same number of windows and none overlap. Nothing
    is stored for each window.
    """

    def __init__(
        self,
        shards: ShardSet,
        split: str = "train",
        length: int = 1024,
        *,
        max_n_run: int = 100,
        seed: int = 0,
        reverse_complement: bool = True,
    ) -> None:
        """Lay out the windows of ``split``.

        Args:
            shards: the bases.
            split: name of the split.
            length: bases in a window.
            max_n_run: the longest run of N that a window may hold.
            seed: of order, offsets and strands.
            reverse_complement: read half of the windows, drawn at random, on the other strand.

        Raises:
            UserError: no such split, or no window fits in it.
        """
        self.shards = shards
        self.split = split
        self.length = length
        self._stretches = find_stretches(shards, split, length, max_n_run)
        self._reverse_complement = reverse_complement
        self._order, self._phase, self._strand = (
            stream_key(shards.fingerprint, seed, purpose) for purpose in ("order", "phase", "strand")
        )

    def __len__(self) -> int:
        """Windows in an epoch."""
        return self._stretches.total

    @property
    def left_out(self) -> tuple[int, int]:
        """Stretches too short for one window, which training never sees, and the bases in them.

        A stretch is what lies between contig ends, interval ends and runs of more than ``max_n_run`` N; the bases of
        these runs are not counted.
        """
        return self._stretches.left_out

    def locate(self, position: int) -> WindowKey:
        """The window at a position, which counts on from epoch to epoch. No shard is read."""
        contig, start, reverse = (column[0] for column in self._locate(np.array([position])))
        name = self.shards.index.contigs[contig].name
        return WindowKey(position // len(self), name, int(start), bool(reverse))

    def ids(self, position: int) -> np.ndarray:
        """Token ids of the window at a position, shape (length,), uint8.

        Raises:
            UserError: a shard is missing, damaged or changed.
        """
        return self.batch(np.array([position]))[0]

    def batch(self, positions: np.ndarray) -> np.ndarray:
        """Token ids of the windows at positions of shape (b,): shape (b, length), uint8.

        Raises:
            UserError: a shard is missing, damaged or changed.
        """
        contig, start, reverse = self._locate(positions)
        ids = read_windows(self.shards, contig, start, self.length)
        ids[reverse] = other_strand(ids[reverse])
        return ids

    def _locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Contig number, first base and strand of the windows at positions of shape (b,)."""
        stretches = self._stretches
        epoch, place = np.divmod(positions, len(self))
        window = permute(place, len(self), counter_hash(self._order, epoch))
        owner = stretches.owner(window)
        spread = (stretches.slack[owner] + 1).astype(np.uint64)
        phase = (counter_hash(counter_hash(self._phase, epoch), owner) % spread).astype(np.int64)
        contig, start = stretches.place(window, self.length)
        reverse = (counter_hash(self._strand, positions) & np.uint64(1)).astype(bool) & self._reverse_complement
        return contig, start + phase, reverse


def read_windows(shards: ShardSet, contig: np.ndarray, start: np.ndarray, length: int) -> np.ndarray:
    """Token ids of windows given by contig number and first base, each of shape (b,): shape (b, length), uint8."""
    ids = np.empty((len(start), length), dtype=np.uint8)
    for row, (number, first) in enumerate(zip(contig.tolist(), start.tolist(), strict=True)):
        ids[row] = shards.read(number, first, first + length)
    return ids


def _between_long_runs(runs: np.ndarray, begin: int, end: int, max_n_run: int) -> list[tuple[int, int]]:
    """What is left of ``begin`` to ``end`` when runs longer than ``max_n_run`` are taken out."""
    long = runs[runs[:, 1] - runs[:, 0] > max_n_run]
    long = np.clip(long[(long[:, 0] < end) & (long[:, 1] > begin)], begin, end)
    edges = [begin, *long.ravel().tolist(), end]
    return list(zip(edges[::2], edges[1::2], strict=True))
