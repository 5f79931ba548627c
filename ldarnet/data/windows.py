"""Training windows: the window at a position of the stream is a pure function of (content, seed, position)."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ldarnet.alphabet import reverse_complement as reverse_complement_of
from ldarnet.data.contigs import some_names
from ldarnet.data.counter_rng import below, counter_hash, stream_key
from ldarnet.data.mixture import ROUND
from ldarnet.data.order import Shuffle
from ldarnet.data.reader import ShardSet
from ldarnet.data.segments import find_segments
from ldarnet.errors import UserError

MAX_POSITION = 2**52
"""Upper bound (exclusive) of the positions of a stream."""


@dataclass(frozen=True, slots=True)
class WindowKey:
    """Location and strand of the window at a position.

    Attributes:
        epoch: epoch of the window's source, from 0.
        contig: full name of the contig.
        start: first base, 0-based.
        reverse: whether the window is read as its reverse complement.
    """

    epoch: int
    contig: str
    start: int
    reverse: bool


@dataclass(frozen=True, slots=True)
class WindowSource:
    """A source of windows with its own epochs: all species pooled, or one species of a mixture.

    Attributes:
        name: name of the species; "" if all species are pooled, or if the species is unnamed.
        windows: number of windows in one epoch of the source.
        share: fraction of all windows that come from this source.
    """

    name: str
    windows: int
    share: float


@dataclass(frozen=True, slots=True)
class Locations:
    """Locations and strands of b windows.

    Attributes:
        epoch: (b,) int64, epoch of the source of each window.
        contig: (b,) integers, contig index.
        start: (b,) int64, first base, 0-based.
        reverse: (b,) bool, whether the window is read as its reverse complement.
    """

    epoch: np.ndarray
    contig: np.ndarray
    start: np.ndarray
    reverse: np.ndarray

    def rows(self, begin: int, end: int) -> "Locations":
        """The locations of windows ``begin`` to ``end`` (exclusive)."""
        part = slice(begin, end)
        return Locations(self.epoch[part], self.contig[part], self.start[part], self.reverse[part])


class Windows:
    """Windows of one length over one split, in a new random order and at new random offsets in each epoch.

    A segment of S bases has ``S // length`` windows, laid end to end from an offset between 0 and ``S % length`` that
    is drawn per segment and epoch. Every epoch has the same number of windows. The windows of an epoch do not overlap.
    Nothing is stored per window.

    By default all species form one source, in which no window repeats before the epoch ends. With weights or a
    temperature, every species is a source with its own epochs and its own share of all windows.

    Attributes:
        shards: the shard set.
        split: name of the split.
        length: bases in a window.
        reverse_complement: whether a random half of the windows are read as their reverse complement.
        sources: the sources and their shares.
        segments: the segments from which windows are cut, grouped by source.
        shuffle: the order of the windows.
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
            shards: the shard set.
            split: name of the split.
            length: bases in a window.
            max_n_run: longest run of N allowed in a window.
            seed: seed of order, offsets and strands.
            reverse_complement: read a random half of the windows as their reverse complement.
            weights: species -> relative number of windows; species without a weight are not read. Mutually exclusive
                with ``temperature``.
            temperature: weight every species by its number of windows to the power of 1/temperature. With temperature
                1, weights are proportional to the number of windows; higher temperatures favor small species.

        Raises:
            UserError: no such split or species; no window fits into the split, or into a species that has a weight; or
                ``length``, ``max_n_run``, a weight or the temperature is out of range.
        """
        self.shards = shards
        self.split = split
        self.length = length
        species = _species(shards, weights, temperature)
        self.segments = find_segments(shards, split, length, max_n_run, species)
        names, counts = [""], np.array([self.segments.total])
        if species is not None:
            of_segment = shards.index.contigs.species[self.segments.contig]
            counts = np.bincount(of_segment, np.diff(self.segments.first), minlength=len(shards.index.species))
            names, counts = [shards.index.species[number] for number in species], counts[species].astype(np.int64)
        if weights is not None and not counts.all():
            empty = [name for name, count in zip(names, counts, strict=True) if not count]
            raise UserError(
                f"{shards.location}: split {split!r} has no window of {length} bases from "
                f"{some_names(map(repr, empty))}; remove the weights of these species, or use a shorter window or "
                "another split"
            )
        names, counts = [name for name, count in zip(names, counts, strict=True) if count], counts[counts > 0]
        target_shares = (
            _shares(counts, temperature or 1.0)
            if weights is None
            else _shares(np.array([weights[name] for name in names]), 1.0)
        )
        order, self._offset_key, self._strand_key = (
            stream_key(shards.fingerprint, seed, purpose) for purpose in ("order", "phase", "strand")
        )
        self.reverse_complement = reverse_complement
        self.shuffle = Shuffle(counts, length, order, target_shares)
        self._first_window = np.cumsum(counts) - counts
        shares = self.shuffle.shares.tolist()
        self.sources = [WindowSource(*values) for values in zip(names, counts.tolist(), shares, strict=True)]

    def __len__(self) -> int:
        """Number of windows in one epoch; for a mixture, the sum over one epoch of every source."""
        return self.segments.total

    @property
    def skipped(self) -> tuple[int, int]:
        """Number and total length (in bases) of the segments that are never read, because a window does not fit.

        The runs of N between segments are not counted.
        """
        return self.segments.skipped

    def epochs(self, position: int) -> dict[str, float]:
        """Map the name of each source to the number of its epochs before a position.

        A partly read epoch counts as a fraction.
        """
        taken = self.shuffle.taken(position) / self.shuffle.windows
        return dict(zip((source.name for source in self.sources), taken.tolist(), strict=True))

    def locate(self, position: int) -> WindowKey:
        """Find the window at a position. Positions continue across epochs. No shard is read."""
        locations = self.locations(np.array([position]))
        name = self.shards.index.name(int(locations.contig[0]))
        return WindowKey(int(locations.epoch[0]), name, int(locations.start[0]), bool(locations.reverse[0]))

    def ids(self, position: int) -> np.ndarray:
        """Token ids of the window at a position, shape (length,), uint8.

        Raises:
            UserError: as for `read`.
        """
        return self.read(self.locations(np.array([position])))[0][0]

    def batch(self, positions: np.ndarray) -> np.ndarray:
        """Token ids of b windows, (b, length) uint8; ``positions`` has shape (b,).

        Raises:
            UserError: as for `read`.
        """
        return self.read(self.locations(positions))[0]

    def read(self, locations: Locations) -> tuple[np.ndarray, dict[int, str]]:
        """Read windows.

        Returns:
            Token ids, (b, length) uint8, and a dict that maps the row of each window on a damaged or missing block to
            the reason. The token ids of these rows are all N.

        Raises:
            UserError: a shard cannot be read; or a shard is missing, damaged or changed, and the set was opened with
                ``on_damaged="stop"``.
        """
        ids, damaged = self.shards.read_windows(locations.contig, locations.start, self.length)
        ids[locations.reverse] = reverse_complement_of(ids[locations.reverse])
        return ids, dict(damaged)

    def prefetch(self, locations: Locations) -> None:
        """Start fetching the blocks of windows in the background, if the set is remote."""
        self.shards.prefetch(self.shards.blocks_of(locations.contig, locations.start, self.length))

    def locations(self, positions: np.ndarray) -> Locations:
        """Find the windows at ``positions``, shape (b,). No shard is read."""
        source, epoch, window = self.shuffle.locate(positions)
        window = window + self._first_window[source]
        offset = self._offset(epoch, self.segments.owner(window))
        contig, start = self.segments.locate(window, self.length)
        reverse = (counter_hash(self._strand_key, positions) & np.uint64(1)).astype(bool) & self.reverse_complement
        return Locations(epoch, contig, start + offset, reverse)

    def ending_in(self, epoch: int, contig: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield (window index, first base) of each window that ends in an interval of a contig.

        A window ends in the interval if its last base is in [``start``, ``stop``). The first base depends on the epoch.
        These `Windows` must have been created without weights or temperature, so that their segments are in the order
        of the set.
        """
        segments, length = self.segments, self.length
        first, last = np.searchsorted(segments.contig, (contig, contig + 1))
        last = first + np.searchsorted(segments.start[first:last], stop)
        owner = np.arange(first, last)
        begins = segments.start[owner] + self._offset(np.array([epoch]), owner)
        counts = np.diff(segments.first[first : last + 1])
        for number, begin, count in zip(segments.first[owner], begins, counts, strict=True):
            for window in range(max(0, (start - begin) // length), min(count, (stop - begin) // length)):
                yield int(number) + window, int(begin) + window * length

    def _offset(self, epoch: np.ndarray, segment: np.ndarray) -> np.ndarray:
        """Number of bases between the start of each segment and its first window in an epoch, (k,) int64."""
        return below(counter_hash(counter_hash(self._offset_key, epoch), segment), self.segments.slack[segment] + 1)


def window_name(shards: ShardSet, contig: int, start: int, length: int) -> str:
    """Format the coordinates of a window as samtools does, such as ``chr1:4097-8192``: 1-based and inclusive."""
    return f"{shards.index.name(int(contig))}:{start + 1}-{start + length}"


def _shares(sizes: np.ndarray, temperature: float) -> np.ndarray:
    """Shares of sources proportional to sizes ** (1 / temperature); they sum to 1."""
    if len(sizes) > ROUND:
        raise UserError(f"mixture of {len(sizes):,} species: at most {ROUND:,} are supported; use fewer species")
    logarithm = np.log(sizes) / temperature
    weights = np.exp(logarithm - logarithm.max())
    if not (weights > 0).all():
        raise UserError(
            "weights or temperature: the sampling frequency of a species rounds to zero; use weights that "
            "differ less, or a higher temperature"
        )
    return weights / weights.sum()


def _species(shards: ShardSet, weights: Mapping[str, float] | None, temperature: float | None) -> np.ndarray | None:
    """Indices of the species of a mixture, in ascending order; None if there are neither weights nor a temperature."""
    names = shards.index.species
    if weights is not None and temperature is not None:
        raise UserError("weights and temperature are mutually exclusive; use one of them")
    if temperature is not None:
        if not 0 < temperature < np.inf:
            raise UserError(f"temperature {temperature}: must be finite and above 0")
        return np.arange(len(names))
    if weights is None:
        return None
    number = {name: number for number, name in enumerate(names)}
    if unknown := [name for name in weights if name not in number]:
        near = difflib.get_close_matches(unknown[0], names, n=1)
        raise UserError(
            f"{shards.location}: weight for unknown species {unknown[0]!r}; "
            + (f"did you mean {near[0]!r}?" if near else f"use one of {some_names(map(repr, names))}")
        )
    if not weights:
        raise UserError("weights: empty; add at least one species, or remove the weights to read all species")
    if wrong := [name for name in weights if not 0 < weights[name] < np.inf]:
        raise UserError(
            f"weight {weights[wrong[0]]} of species {wrong[0]!r}: must be finite and above 0; to exclude a species, "
            "remove its weight"
        )
    return np.sort([number[name] for name in weights])
