"""Splits by whole contigs, by the intervals of a BED file, or by hashed tiles."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ldarnet.data.contigs import Contigs, some_names
from ldarnet.data.counter_rng import counter_hash, stream_key
from ldarnet.errors import UserError
from ldarnet.genome.bed import BedInterval, read_bed
from ldarnet.genome.intervals import intersect, merge
from ldarnet.genome.sources import text_lines

TRAIN = "train"


def parse_contig_splits(options: Sequence[str]) -> dict[str, list[str]]:
    """Parse options such as ``valid=chrI,chrVI``, and return the names listed for each split.

    A listed name is a contig or, with a trailing slash, a species; ``@FILE`` is replaced by the names in a file.

    Raises:
        UserError: an option is malformed, a split or name is repeated, or a file cannot be read.
    """
    splits: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for option in options:
        split, _, names = option.partition("=")
        contigs = [name for word in names.split(",") if word for name in _names(option, word)]
        if not split or not contigs:
            raise UserError(f"--split {option}: split name or contigs missing; use NAME=CONTIG,CONTIG")
        if split in splits:
            raise UserError(f"--split {option}: split {split!r} is given twice; list all its contigs in one option")
        for name in contigs:
            if name in seen:
                raise UserError(f"--split {option}: {name!r} is already in split {seen[name]!r}; list it once")
            seen[name] = split
        splits[split] = contigs
    return splits


def splits_by_contig(named: Mapping[str, Sequence[str]], contigs: Contigs) -> dict[str, np.ndarray]:
    """Assign whole contigs to splits; contigs that are not listed in any split belong to ``train``.

    Returns:
        Split name -> (s, 3) int64: contig index, start and stop.

    Raises:
        UserError: a contig is not in the input or is in two splits, or ``train`` gets no contig.
    """
    names = list(dict.fromkeys((TRAIN, *named)))
    split_of = np.full(len(contigs), names.index(TRAIN))
    taken: dict[int, str] = {}
    for split, members in named.items():
        for name in members:
            for number in _members(f"--split {split}", contigs, name):
                if (other := taken.setdefault(number, split)) != split:
                    raise UserError(f"--split {split}: {name!r} is already in split {other!r}; list it once")
                split_of[number] = names.index(split)
    if not (split_of == names.index(TRAIN)).any():
        raise UserError(f"--split: the options assign all contigs; leave at least one contig for {TRAIN!r}")
    whole = np.stack((np.arange(len(contigs)), np.zeros(len(contigs), np.int64), contigs.length), axis=1)
    return {split: whole[split_of == number] for number, split in enumerate(names)}


def parse_hash_fractions(options: Sequence[str]) -> dict[str, float]:
    """Parse options such as ``valid=0.05,test=0.05``, and return the fraction of the tiles for each split.

    Raises:
        UserError: an option is malformed or names ``train``, a split is repeated, or the fractions sum to 1 or more.
    """
    shares: dict[str, float] = {}
    for word in ",".join(options).split(","):
        split, _, share = word.partition("=")
        try:
            value = float(share)
        except ValueError:
            value = 0.0
        if not split or not 0 < value < 1:
            raise UserError(f"--split-hash {word}: malformed; use NAME=FRACTION with 0 < FRACTION < 1")
        if split == TRAIN:
            raise UserError(f"--split-hash {word}: {TRAIN!r} always gets all remaining tiles; remove this entry")
        if split in shares:
            raise UserError(f"--split-hash {word}: split {split!r} is given twice; give it once")
        shares[split] = value
    if sum(shares.values()) >= 1:
        raise UserError(
            f"--split-hash: the fractions sum to {sum(shares.values()):g}, which leaves no tiles for {TRAIN!r}; use "
            "smaller fractions"
        )
    return shares


def splits_by_hash(fractions: Mapping[str, float], tile: int, seed: int, contigs: Contigs) -> dict[str, np.ndarray]:
    """Assign tiles of each contig to splits by a hash of species, contig name, tile index and ``seed``.

    Adjacent tiles of one split are merged. The tiles of a contig do not depend on other contigs of the set.

    Args:
        fractions: split name -> fraction of the tiles; the remaining tiles belong to ``train``.
        tile: tile length in bases.
        seed: seed of the hash.
        contigs: the contigs of the input.

    Returns:
        Split name -> (s, 3) int64: contig index, start and stop.

    Raises:
        UserError: a split got no tile.
    """
    tiles = -(-contigs.length // tile)
    contig = np.repeat(np.arange(len(contigs)), tiles)
    number = np.arange(len(contig)) - np.repeat(np.cumsum(tiles) - tiles, tiles)
    keys = np.array([stream_key("split", seed, name) for name in contigs.all_names()])
    draw = counter_hash(keys[contig], number) / 2.0**64
    split_of = np.searchsorted(np.cumsum(list(fractions.values())), draw, side="right")
    stops = np.minimum((number + 1) * tile, contigs.length[contig])
    rows = np.stack((contig, number * tile, stops), axis=1)
    names = (*fractions, TRAIN)
    splits = {name: merge(rows[split_of == number]) for number, name in enumerate(names)}
    for name, found in splits.items():
        if not len(found):
            raise UserError(
                f"--split-hash: split {name!r} got none of {len(contig)} tiles of {tile:,} bases; use smaller tiles "
                f"(such as --hash-tile {_suggest_tile(fractions, contigs)}), another --hash-seed or a larger fraction"
            )
    return {TRAIN: splits.pop(TRAIN), **splits}


def _suggest_tile(fractions: Mapping[str, float], contigs: Contigs) -> int:
    """Suggest a tile length with which the smallest split gets about 16 tiles."""
    length = int(contigs.length.sum()) * min(*fractions.values(), 1 - sum(fractions.values())) / 16
    return 1 << max(0, int(length).bit_length() - 1)


def read_splits_bed(path: Path) -> list[BedInterval]:
    """Read a BED file of split intervals. Column 4 is the name of the split.

    Raises:
        UserError: the file is missing or empty, a line is not BED, or intervals of two splits overlap.
    """
    intervals = list(read_bed(path, name="split"))
    _check_one_split(path, intervals)
    return intervals


def splits_by_interval(path: Path, intervals: Sequence[BedInterval], contigs: Contigs) -> dict[str, np.ndarray]:
    """Assign the intervals of a BED file to splits; bases outside all intervals are in no split.

    Intervals of one split that overlap or touch are merged.

    Args:
        path: the BED file; only used in error messages.
        intervals: result of `read_splits_bed`.
        contigs: the contigs of the input.

    Returns:
        Split name -> (s, 3) int64: contig index, start and stop, sorted by contig and start.

    Raises:
        UserError: an interval names an unknown contig or extends beyond its contig.
    """
    rows: dict[str, list[tuple[int, int, int]]] = {}
    for interval in intervals:
        place, name = f"{path}: line {interval.line}", interval.contig
        number = _number(place, contigs, name)
        contigs.check_interval(number, interval.start, interval.end, place)
        rows.setdefault(interval.name, []).append((number, interval.start, interval.end))
    splits = {split: merge(np.array(found, dtype=np.int64)) for split, found in rows.items()}
    _check_disjoint(path, splits, contigs)
    return dict(sorted(splits.items(), key=lambda split: split[1][0].tolist()))


def exclusions(path: Path, intervals: Sequence[BedInterval], contigs: Contigs) -> np.ndarray:
    """Sort and merge the intervals of a BED file of exclusions.

    Returns:
        (e, 3) int64: contig index, start and stop.

    Raises:
        UserError: an interval names an unknown contig or extends beyond its contig.
    """
    (rows,) = splits_by_interval(path, intervals, contigs).values()
    return rows


def _check_disjoint(path: Path, splits: Mapping[str, np.ndarray], contigs: Contigs) -> None:
    """Raise if splits overlap, for example because the BED file uses two names for one contig."""
    for (one, rows), (other, others) in itertools.combinations(splits.items(), 2):
        if len(shared := intersect(rows, others)):
            contig, start, stop = shared[0].tolist()
            raise UserError(
                f"{path}: splits {one!r} and {other!r} overlap in {contigs.name(contig)}:{start}-{stop}; "
                "assign each base to one split"
            )


def _names(option: str, word: str) -> list[str]:
    """Return ``word`` in a list, or the names in the file if ``word`` is ``@FILE``."""
    if not word.startswith("@"):
        return [word]
    path = Path(word[1:])
    names = [name for line in text_lines(path) for name in line.split()]
    if not names:
        raise UserError(f"--split {option}: {path} is empty; list names of contigs or, with a trailing '/', of species")
    return names


def _members(place: str, contigs: Contigs, name: str) -> list[int]:
    """Indices of the contigs that a name refers to: one contig or, for ``SPECIES/``, all contigs of that species."""
    if not name.endswith("/"):
        return [_number(place, contigs, name)]
    if name[:-1] not in contigs.species_names:
        raise UserError(
            f"{place}: no species {name[:-1]!r} in the input; use one of {some_names(contigs.species_names)}"
        )
    return np.flatnonzero(contigs.species == contigs.species_names.index(name[:-1])).tolist()


def _number(place: str, contigs: Contigs, name: str) -> int:
    try:
        return contigs.number(name)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def _check_one_split(path: Path, intervals: Sequence[BedInterval]) -> None:
    """Raise if intervals of two splits overlap."""
    farthest: BedInterval | None = None
    for interval in sorted(intervals):
        if farthest is None or farthest.contig != interval.contig or farthest.end <= interval.start:
            farthest = interval
        elif farthest.name != interval.name:
            raise UserError(
                f"{path}: line {interval.line}: split {interval.name!r} overlaps split {farthest.name!r} of line "
                f"{farthest.line}; assign each base to one split"
            )
        elif farthest.end < interval.end:
            farthest = interval
