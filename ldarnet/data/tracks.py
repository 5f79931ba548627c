"""Chunk boundaries from a genome track: the borders of BED intervals, or the highest values of a bigWig file.

A boundary lies between two bases, before a base of the forward strand. A window that is read as its reverse complement
has the same boundaries, in reverse order.

Shapes: b windows, L bases of a window.
"""

import math
import os
from array import array
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldarnet.data.contig_names import contig_numbers, translation
from ldarnet.data.loader import BoundarySource
from ldarnet.data.reader import ShardSet
from ldarnet.data.windows import Locations
from ldarnet.errors import UserError
from ldarnet.extras import missing_extra
from ldarnet.genome.bed import read_bed
from ldarnet.io.files import read_errors
from ldarnet.printable import printable

BIGWIG_MAGIC = {0x888FFC26.to_bytes(4, "little"), 0x888FFC26.to_bytes(4, "big")}
KEY = "data.boundaries"

Names = Path | Mapping[str, str] | None
"""Contig name in the track -> contig name in the set, or a file with these two columns. Names that are not listed are
the same in both."""


def open_track(path: Path, shards: ShardSet, target_ratio: float, contigs: Names = None) -> BoundarySource:
    """Open a BED file (plain or compressed) or a bigWig file, which is recognized by its content.

    Args:
        path: path of the file.
        shards: the shard set of the windows.
        target_ratio: bases per chunk; only used for bigWig files.
        contigs: names of contigs.

    Raises:
        UserError: the file cannot be read or is malformed, it is from another assembly, none of its contigs are in the
            set, or a package is missing.
    """
    with read_errors(path), path.open("rb") as file:
        is_bigwig = file.read(4) in BIGWIG_MAGIC
    return BigWigTrack(path, shards, target_ratio, contigs) if is_bigwig else BedTrack(path, shards, contigs)


class BedTrack:
    """Boundaries at the starts and ends of the intervals of a BED file. Intervals may overlap."""

    def __init__(self, path: Path, shards: ShardSet, contigs: Names = None) -> None:
        """Read the intervals on the contigs of the set; for the arguments and errors, see `open_track`."""
        numbers, names = contig_numbers(shards), translation(contigs)
        borders: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))
        for interval in read_bed(path):
            number = numbers.get(names.get(interval.contig, interval.contig))
            if number is not None:
                place = f"{path}: line {interval.line}"
                shards.index.contigs.check_interval(number, interval.start, interval.end, place)
                borders[number].extend((interval.start, interval.end))
        if not borders:
            raise _no_contig(path, shards)
        self._borders = {number: np.unique(values) for number, values in borders.items()}

    def __call__(self, ids: np.ndarray, locations: Locations) -> np.ndarray:
        """Boundaries of windows, (b, L) bool."""
        length, none = ids.shape[1], np.zeros(0, dtype=np.int64)
        marks = np.zeros((len(ids), length + 1), dtype=bool)
        for row, contig, start in zip(marks, locations.contig.tolist(), locations.start.tolist(), strict=True):
            borders = self._borders.get(contig, none)
            first, last = np.searchsorted(borders, (start, start + length + 1))
            row[borders[first:last] - start] = True
        return _oriented(marks, locations.reverse)


class BigWigTrack:
    """Boundaries before the bases with the highest values of a bigWig file, 1 / ``target_ratio`` of each window.

    Of equal values, the base further left on the forward strand is selected. Bases without a value are never selected,
    so windows in gaps of the track have fewer boundaries.
    """

    def __init__(self, path: Path, shards: ShardSet, target_ratio: float, contigs: Names = None) -> None:
        """Open the file; for the arguments and errors, see `open_track`."""
        self._path, self._ratio = path, target_ratio
        self._reader: tuple[int, Any] | None = None
        numbers, names, self._names = contig_numbers(shards), translation(contigs), {}
        for name, length in self._open().chroms().items():
            number = numbers.get(names.get(name, name))
            if number is None:
                continue
            if length != (expected := int(shards.index.contigs.length[number])):
                raise UserError(
                    f"{path}: {printable(name)} has {length:,} bases, but {expected:,} in {shards.location}; is it "
                    "from another assembly?"
                )
            self._names[number] = name
        if not self._names:
            raise _no_contig(path, shards)

    def __call__(self, ids: np.ndarray, locations: Locations) -> np.ndarray:
        """Boundaries of windows, (b, L) bool."""
        length = ids.shape[1]
        count = math.ceil(length / self._ratio) - 1  # besides the start of the window
        marks = np.zeros((len(ids), length + 1), dtype=bool)
        for row, contig, start in zip(marks, locations.contig.tolist(), locations.start.tolist(), strict=True):
            if (name := self._names.get(contig)) is not None:
                values = self._values(name, start, start + length)[1:]
                order = np.argsort(-values, kind="stable")  # NaN, no value, comes last
                row[1 + order[: min(count, int((~np.isnan(values)).sum()))]] = True
        return _oriented(marks, locations.reverse)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reader": None}

    def _values(self, name: str, start: int, stop: int) -> np.ndarray:
        try:
            return self._open().values(name, start, stop, numpy=True)
        except RuntimeError as error:
            raise UserError(f"{self._path}: damaged ({printable(str(error))}); download it again") from None

    def _open(self) -> Any:
        """Reader of this process; processes must not share the position in the file."""
        if self._reader is None or self._reader[0] != os.getpid():
            try:
                import pyBigWig
            except ModuleNotFoundError as error:
                raise UserError(missing_extra(error, f"{KEY}={self._path}") or str(error)) from None
            try:
                self._reader = os.getpid(), pyBigWig.open(str(self._path))
            except RuntimeError as error:
                raise UserError(f"{self._path}: damaged ({printable(str(error))}); download it again") from None
        return self._reader[1]


def _oriented(marks: np.ndarray, reverse: np.ndarray) -> np.ndarray:
    """Boundaries in the orientation in which windows are read, (b, L) bool.

    Args:
        marks: (b, L + 1) bool; entry j is a boundary before base j of the forward strand, or after the last base.
        reverse: (b,) bool, whether each window is read as its reverse complement.
    """
    boundaries = np.where(reverse[:, None], marks[:, ::-1], marks)[:, :-1].copy()
    boundaries[:, 0] = True
    return boundaries


def _no_contig(path: Path, shards: ShardSet) -> UserError:
    return UserError(
        f"{path}: no contig of {shards.location}; use the contig names of the shard set, such as "
        f"{shards.index.name(0)!r}, or set {KEY}_contigs"
    )
