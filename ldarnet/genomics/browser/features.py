"""Chunks and values of a region, from the files that `ldarnet tracks` writes."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from ldarnet.errors import UserError
from ldarnet.io.files import file_size, read_errors
from ldarnet.printable import printable

MAX_REGION = 500_000
"""Maximum length of a region, in bases."""
Rows = Callable[[str, int, int], Iterator[list[str]]]
"""Rows of a file that overlap a region, as text columns: contig, start, end, and others."""


class SortedRows:
    """A BED or bedGraph file with disjoint intervals, sorted by contig and position; regions are found by bisection."""

    def __init__(self, path: Path, sizes: Mapping[str, int]) -> None:
        """Open the file.

        Raises:
            UserError: the file cannot be read, or its first line is not on one of the contigs.
        """
        self._path, self._size = path, file_size(path)
        with read_errors(path), path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self._size else b""
        if self._size:
            contig, *_ = self._row(0)[0]
            _check_contigs(path, {contig: sizes.get(contig, -1)}, sizes)

    def __call__(self, contig: str, start: int, end: int) -> Iterator[list[str]]:
        """Yield the rows that overlap a region."""
        low, high = 0, self._size  # the first row of the region begins at low or later, and not after high
        while low < high:
            middle = self._data.rfind(b"\n", low, (low + high) // 2) + 1 or low
            row, following = self._row(middle)
            if (row[0], int(row[2])) <= (contig, start):
                low = following
            else:
                high = middle
        while low < self._size:
            row, low = self._row(low)
            if row[0] != contig or int(row[1]) >= end:
                return
            yield row

    def _row(self, at: int) -> tuple[list[str], int]:
        """Columns of the row at an offset, and the offset of the next row."""
        end = self._data.find(b"\n", at)
        end = self._size if end < 0 else end
        row = self._data[at:end].decode("utf-8", "replace").split("\t")
        if len(row) < 4 or not (row[1].isdecimal() and row[2].isdecimal()):
            raise UserError(f"{self._path}: damaged; run ldarnet tracks again")
        return row, end + 1


class BigBedRows:
    """Rows of a bigBed file."""

    def __init__(self, path: Path, sizes: Mapping[str, int]) -> None:
        """Open the file.

        Raises:
            UserError: the file cannot be read, or has other contigs.
            ModuleNotFoundError: pybigtools is not installed.
        """
        self._file, self._lock = open_indexed(path, sizes), Lock()
        self._contigs = {*self._file.chroms()}

    def __call__(self, contig: str, start: int, end: int) -> Iterator[list[str]]:
        """Yield the rows that overlap a region."""
        if contig in self._contigs:
            with self._lock:
                rows = list(self._file.records(contig, start, end))
            for first, last, *columns in rows:
                if first < end and last > start:  # pybigtools also returns neighbors that touch the region
                    yield [contig, str(first), str(last), *map(str, columns)]


def open_indexed(path: Path, sizes: Mapping[str, int] | None = None) -> Any:
    """Open a bigWig or bigBed file with pybigtools; check that its contigs are those of the genome, if given.

    Raises:
        UserError: the file cannot be read, or has other contigs.
        ModuleNotFoundError: pybigtools is not installed.
    """
    import pybigtools

    with read_errors(path), path.open("rb"):
        pass
    try:
        file = pybigtools.open(str(path))
    except Exception as error:  # pybigtools has errors of its own
        raise UserError(f"{path}: damaged ({printable(str(error))}); run ldarnet tracks again") from None
    if sizes is not None:
        _check_contigs(path, file.chroms(), sizes)
    return file


def first_position(path: Path) -> tuple[str, int] | None:
    """Contig and start of the first row of a file of tracks; None without rows."""
    if path.suffix in (".bed", ".bedgraph"):
        with read_errors(path), path.open(encoding="utf-8", errors="replace") as file:
            columns = file.readline(2**16).split("\t")
        return (columns[0], int(columns[1])) if len(columns) > 2 and columns[1].isdecimal() else None
    file = open_indexed(path)
    rows = ((contig, next(iter(file.records(contig)), None)) for contig in file.chroms())
    return next(((contig, int(row[0])) for contig, row in rows if row is not None), None)


def _check_contigs(path: Path, found: Mapping[str, int], sizes: Mapping[str, int]) -> None:
    for contig, length in found.items():
        if sizes.get(contig) != length:
            raise UserError(
                f"{path}: no contig {printable(contig)} of this length in the genome; choose the genome of these "
                "tracks, and the same --rename"
            )


def chunk_features(rows: Rows) -> Callable[[dict[str, str]], list[list[Any]]]:
    """Query of chunks: start, end, boundary probability at the first base, and mean of it; None without a value."""

    def query(parameters: dict[str, str]) -> list[list[Any]]:
        return [
            [int(row[1]), int(row[2]), *map(_number, row[6:8])] for row in rows(*parse_region(parameters, MAX_REGION))
        ]

    return query


def value_features(rows: Rows) -> Callable[[dict[str, str]], list[list[Any]]]:
    """Query of values: start, end, value."""

    def query(parameters: dict[str, str]) -> list[list[Any]]:
        return [[int(row[1]), int(row[2]), _number(row[3])] for row in rows(*parse_region(parameters, MAX_REGION))]

    return query


def parse_region(parameters: dict[str, str], limit: int | None = None) -> tuple[str, int, int]:
    """Parse the parameters contig, start and end of a URL.

    Raises:
        UserError: one is missing or not a number, or the region is longer than ``limit``.
    """
    numbers = [parameters.get(name, "") for name in ("start", "end")]
    if "contig" not in parameters or not all(text.isdecimal() and len(text) <= 15 for text in numbers):
        raise UserError("not a region; send contig, start and end")
    start, end = map(int, numbers)
    if limit is not None and end - start > limit:
        raise UserError(f"a region of {end - start:,} bases; request at most {limit:,}")
    return parameters["contig"], start, end


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
