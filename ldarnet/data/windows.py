"""Training windows: which one stands at a position, as a pure function of (content, seed, position), and its bases."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ldarnet.alphabet import reverse_complement as other_strand
from ldarnet.data.contigs import some_names
from ldarnet.data.counter_rng import below, counter_hash, stream_key
from ldarnet.data.mixture import ROUND
from ldarnet.data.order import Shuffle
from ldarnet.data.reader import ShardSet
from ldarnet.data.segments import find_stretches
from ldarnet.errors import UserError

MAX_POSITION = 2**52
"""Positions of the stream are below this."""


@dataclass(frozen=True, slots=True)
class WindowKey:
    """Which window stands at a position: epoch of its source, contig, first base, whether on the other strand."""

    epoch: int
    contig: str
    start: int
    reverse: bool


@dataclass(frozen=True, slots=True)
class Source:
    """What is read to one end before it is read again: all species together, or each of a mixture.

    Attributes:
        name: of the species; "" for all together, or where no species was named.
        windows: in an epoch of it.
        share: of all windows that are read.
    """

    name: str
    windows: int
    share: float


@dataclass(frozen=True, slots=True)
class Places:
    """Where windows lie, (b,) each: epoch of the source, contig number, first base, whether on the other strand."""

    epoch: np.ndarray
    contig: np.ndarray
    start: np.ndarray
    reverse: np.ndarray

    def rows(self, begin: int, end: int) -> "Places":
        """Those of some of the windows."""
        part = slice(begin, end)
        return Places(self.epoch[part], self.contig[part], self.start[part], self.reverse[part])


class Windows:
    """Windows of one length over one split, in a new random order and at new random offsets in each epoch.

    A stretch of S bases gives ``S // length`` windows laid end to end from an offset of 0 to ``S % length`` that is
    drawn anew for each stretch and epoch, so that every epoch has the same number of windows and none overlap. Nothing
    is stored for each window.

    Without weights and temperature all species are one source, and its windows are read once before any is read again.
    With one of them every species is a source of its own, read at its share of all windows.

    Attributes:
        shards: the bases.
        split: name of the split.
        length: bases in a window.
        sources: what is read, at which share.
        stretches: what the windows are cut from, the sources one after the other.
        shuffle: their order.
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
        weights: Mapping[str, float] | None = None,
        temperature: float | None = None,
    ) -> None:
        """Lay out the windows of ``split``.

        Args:
            shards: the bases.
            split: name of the split.
            length: bases in a window.
            max_n_run: the longest run of N that a window may hold.
            seed: of order, offsets and strands.
            reverse_complement: read half of the windows, drawn at random, on the other strand.
            weights: species -> its weight among all windows; species that are not named are not read.
            temperature: read every species in proportion to its windows to the power of 1/temperature: 1 for their
                sizes, more to favour the small ones.

        Raises:
            UserError: no such split or species, no window fits in it, or a weight or the temperature is not above 0.
        """
        self.shards = shards
        self.split = split
        self.length = length
        species = _species(shards, weights, temperature)
        self.stretches = find_stretches(shards, split, length, max_n_run, species)
        names, counts = [""], np.array([self.stretches.total])
        if species is not None:
            of_stretch = shards.index.contigs.species[self.stretches.contig]
            counts = np.bincount(of_stretch, np.diff(self.stretches.first), minlength=len(shards.index.species))
            names, counts = [shards.index.species[number] for number in species], counts[species].astype(np.int64)
        if weights is not None and not counts.all():
            empty = [name for name, count in zip(names, counts, strict=True) if not count]
            raise UserError(
                f"{shards.place}: split {split!r} has no window of {length} bases of {some_names(map(repr, empty))}; "
                "leave out the weight, or choose a shorter window or another split"
            )
        names, counts = [name for name, count in zip(names, counts, strict=True) if count], counts[counts > 0]
        wanted = (
            _shares(counts, temperature or 1.0)
            if weights is None
            else _shares(np.array([weights[name] for name in names]), 1.0)
        )
        order, self._phase, self._strand = (
            stream_key(shards.fingerprint, seed, purpose) for purpose in ("order", "phase", "strand")
        )
        self.reverse_complement = reverse_complement
        self.shuffle = Shuffle(counts, length, order, wanted)
        self._first_window = np.cumsum(counts) - counts
        shares = self.shuffle.shares.tolist()
        self.sources = [Source(*values) for values in zip(names, counts.tolist(), shares, strict=True)]

    def __len__(self) -> int:
        """Windows in an epoch; with several sources, in an epoch of each of them together."""
        return self.stretches.total

    @property
    def left_out(self) -> tuple[int, int]:
        """Stretches too short for one window, which training never sees, and the bases in them.

        A stretch is what lies between contig ends, interval ends and runs of more than ``max_n_run`` N; the bases of
        these runs are not counted.
        """
        return self.stretches.left_out

    def epochs(self, position: int) -> dict[str, float]:
        """How often each source was read through before a position, by name."""
        taken = self.shuffle.taken(position) / self.shuffle.windows
        return dict(zip((source.name for source in self.sources), taken.tolist(), strict=True))

    def locate(self, position: int) -> WindowKey:
        """The window at a position, which counts on from epoch to epoch. No shard is read."""
        places = self.places(np.array([position]))
        name = self.shards.index.name(int(places.contig[0]))
        return WindowKey(int(places.epoch[0]), name, int(places.start[0]), bool(places.reverse[0]))

    def ids(self, position: int) -> np.ndarray:
        """Token ids of the window at a position, shape (length,), uint8.

        Raises:
            UserError: a shard is missing, damaged or changed.
        """
        return self.read(self.places(np.array([position])))[0][0]

    def batch(self, positions: np.ndarray) -> np.ndarray:
        """Token ids of the windows at positions of shape (b,): shape (b, length), uint8.

        Raises:
            UserError: a shard is missing, damaged or changed.
        """
        return self.read(self.places(positions))[0]

    def read(self, places: Places) -> tuple[np.ndarray, dict[int, str]]:
        """Token ids of windows, (b, length) uint8, and why rows of nothing but N could not be read.

        Raises:
            UserError: a shard cannot be read; or it is missing, damaged or changed, and the set was not told to go on.
        """
        ids, damaged = self.shards.read_windows(places.contig, places.start, self.length)
        ids[places.reverse] = other_strand(ids[places.reverse])
        return ids, dict(damaged)

    def prefetch(self, places: Places) -> None:
        """Begin to fetch the blocks of windows that will be read soon, where the set is not local."""
        self.shards.prefetch(self.shards.blocks_of(places.contig, places.start, self.length))

    def places(self, positions: np.ndarray) -> Places:
        """Where the windows at positions of shape (b,) lie; no shard is read."""
        source, epoch, window = self.shuffle.place(positions)
        stretches, window = self.stretches, window + self._first_window[source]
        owner = stretches.owner(window)
        phase = self._offset(epoch, owner)
        contig, start = stretches.place(window, self.length)
        reverse = (counter_hash(self._strand, positions) & np.uint64(1)).astype(bool) & self.reverse_complement
        return Places(epoch, contig, start + phase, reverse)

    def ending_in(self, epoch: int, contig: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Number and first base of the windows of an epoch whose last base is in an interval of a contig.

        For windows without mixture weights, whose segments are in the order of the set.
        """
        segments, length = self.stretches, self.length
        first, last = np.searchsorted(segments.contig, (contig, contig + 1))
        last = first + np.searchsorted(segments.start[first:last], stop)
        owner = np.arange(first, last)
        begins = segments.start[owner] + self._offset(np.array([epoch]), owner)
        counts = np.diff(segments.first[first : last + 1])
        for number, begin, count in zip(segments.first[owner], begins, counts, strict=True):
            for window in range(max(0, (start - begin) // length), min(count, (stop - begin) // length)):
                yield int(number) + window, int(begin) + window * length

    def _offset(self, epoch: np.ndarray, segment: np.ndarray) -> np.ndarray:
        """Bases between the start of a segment and its first window, (k,) int64."""
        return below(counter_hash(counter_hash(self._phase, epoch), segment), self.stretches.slack[segment] + 1)


def window_name(shards: ShardSet, contig: int, start: int, length: int) -> str:
    """A window in words, such as ``chr1:4097-8192``: from the first base to the last, counted from 1."""
    return f"{shards.index.name(int(contig))}:{start + 1}-{start + length}"


def _shares(sizes: np.ndarray, temperature: float) -> np.ndarray:
    """Shares of sources in proportion to sizes ** (1 / temperature); they sum to 1."""
    if len(sizes) > ROUND:
        raise UserError(f"a mixture of {len(sizes):,} species: at most {ROUND:,} can be mixed; weight fewer of them")
    logarithm = np.log(sizes) / temperature
    wanted = np.exp(logarithm - logarithm.max())
    if not (wanted > 0).all():
        raise UserError(
            "the weights or the temperature leave a species without any share; choose weights that differ less, or a "
            "higher temperature"
        )
    return wanted / wanted.sum()


def _species(shards: ShardSet, weights: Mapping[str, float] | None, temperature: float | None) -> np.ndarray | None:
    """The numbers of the species of a mixture, in order; None without one."""
    names = shards.index.species
    if weights is not None and temperature is not None:
        raise UserError("weights and a temperature are both given: choose one of the two")
    if temperature is not None:
        if not 0 < temperature < np.inf:
            raise UserError(f"temperature {temperature}: it must be above 0")
        return np.arange(len(names))
    if weights is None:
        return None
    number = {name: number for number, name in enumerate(names)}
    if unknown := [name for name in weights if name not in number]:
        near = difflib.get_close_matches(unknown[0], names, n=1)
        raise UserError(
            f"{shards.place}: a weight is given to species {unknown[0]!r}, which is not in it"
            + (f"; did you mean {near[0]!r}?" if near else f"; it holds {some_names(map(repr, names))}")
        )
    if not weights:
        raise UserError("weights of no species: name at least one, or give no weights to read all as they come")
    if wrong := [name for name in weights if not 0 < weights[name] < np.inf]:
        raise UserError(
            f"weight {weights[wrong[0]]} of species {wrong[0]!r}: it must be above 0; leave out what is not to be read"
        )
    return np.sort([number[name] for name in weights])
