"""Write values along a genome as bedGraph and bigWig, and chunks as BED and bigBed.

Values are rounded to `DECIMALS` decimals, in all formats alike. Contigs and positions must be given in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

import numpy as np

from ldarnet.errors import UserError
from ldarnet.extras import optional_imports
from ldarnet.genomics.stitching import ChunkTable
from ldarnet.io.files import NotWritableError

T = TypeVar("T")
Values = Iterable[tuple[str, int, np.ndarray]]
"""Contig, position of the first value, and values, (n,) float32; NaN where there is no value."""
Chunks = Iterable[tuple[str, ChunkTable]]
"""Contig and chunks."""

DECIMALS = 4
STRAND_SIGNS = {"_forward": "+", "_reverse": "-"}
"""Suffix of the name of a signal -> strand in BED files; `.` for an average over both."""
CHUNK_COLUMNS = """table chunks
"Chunks of a DNA language model"
(
string chrom;              "Contig"
uint   chromStart;         "First base, 0-based"
uint   chromEnd;           "Position after the last base"
string name;               "Length in bases"
uint   score;              "1000 times the boundary probability at the first base"
char[1] strand;            "Strand that the model read, or . for both"
float  startProbability;   "Boundary probability at the first base"
float  meanProbability;    "Mean boundary probability of all bases"
)
"""
"""Columns of the chunks in AutoSQL, the schema of bigBed files."""


def write_bedgraph(path: Path, sizes: Mapping[str, int], values: Values) -> None:
    """Write values as bedGraph; equal values of neighboring bases share a line."""
    with path.open("w", encoding="utf-8") as file:
        for contig, start, end, value in _runs(values):
            file.write(f"{contig}\t{start}\t{end}\t{value:g}\n")


def write_bigwig(path: Path, sizes: Mapping[str, int], values: Values) -> None:
    """Write values as bigWig.

    Args:
        path: path of the file; must end with ``.bw``.
        sizes: contig -> length.
        values: the values.

    Raises:
        NotWritableError: the file is incomplete.
        ModuleNotFoundError: pybigtools is not installed.
    """
    _write_indexed(path, sizes, _runs(values))


def write_bed(path: Path, sizes: Mapping[str, int], chunks: Chunks, strand: str = ".") -> None:
    """Write chunks as BED; for the columns, see `CHUNK_COLUMNS`."""
    with path.open("w", encoding="utf-8") as file:
        _write_lines(file, _chunk_rows(chunks, strand))


def write_bigbed(path: Path, sizes: Mapping[str, int], chunks: Chunks, strand: str = ".") -> None:
    """Write chunks as bigBed; the path must end with ``.bb``. For the columns, see `CHUNK_COLUMNS`.

    Raises:
        NotWritableError: the file is incomplete.
        ModuleNotFoundError: pybigtools is not installed.
    """
    _write_indexed(path, sizes, _chunk_rows(chunks, strand), CHUNK_COLUMNS)


def _write_lines(file: TextIO, rows: Iterable[tuple[str, int, int, str]]) -> None:
    for contig, start, end, rest in rows:
        file.write(f"{contig}\t{start}\t{end}\t{rest}\n")


def _runs(values: Values) -> Iterator[tuple[str, int, int, float]]:
    """Yield contig, start, end and value of each run of equal values."""
    for contig, position, block in values:
        rounded = block.astype(np.float64).round(DECIMALS) + 0.0  # no -0
        edges = np.flatnonzero(rounded[1:] != rounded[:-1]) + 1  # NaN differs from NaN
        starts = np.concatenate(([0], edges))[: len(rounded)]
        ends = np.append(edges, len(rounded))[: len(starts)]
        known = ~np.isnan(rounded[starts])
        starts, ends = starts[known], ends[known]
        yield from zip(
            repeat(contig), (position + starts).tolist(), (position + ends).tolist(), rounded[starts].tolist()
        )


def _chunk_rows(chunks: Chunks, strand: str) -> Iterator[tuple[str, int, int, str]]:
    """Yield contig, start, end and the other columns of each chunk, tab-separated."""
    for contig, table in chunks:
        p, mean = (
            np.nan_to_num(column.astype(np.float64)) for column in (table.start_probability, table.mean_probability)
        )
        columns = (table.starts, table.ends, p, mean)
        for start, end, first, inside in zip(*(column.tolist() for column in columns), strict=True):
            numbers = f"{round(first, DECIMALS):g}\t{round(inside, DECIMALS):g}"
            yield contig, start, end, f"{end - start}\t{round(1000 * first)}\t{strand}\t{numbers}"


class _Exhausted(Generic[T]):
    """Iterator that counts the bases of its rows, and stores the error that ends it.

    pybigtools prints the errors of an iterator, and then returns as if the iterator had ended.
    """

    def __init__(self, rows: Iterable[T]) -> None:
        self._rows = iter(rows)
        self.bases = 0
        self.error: BaseException | None = None
        self.ended = False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            row: Any = next(self._rows)
        except StopIteration:
            self.ended = True
            raise
        except BaseException as error:
            self.error = error
            raise StopIteration from None
        self.bases += row[2] - row[1]
        return row


def _write_indexed(path: Path, sizes: Mapping[str, int], rows: Iterable[Any], columns: str | None = None) -> None:
    """Write a bigWig or bigBed file, and read its summary back: pybigtools does not raise if the disk is full."""
    with optional_imports("ldarnet tracks"):
        import pybigtools

    source = _Exhausted(rows)
    first = next(source, None)
    if source.error is not None:
        raise source.error
    if first is None:
        raise UserError(f"{path.name}: no base with a value, or no whole chunk, in the regions; choose longer regions")
    used = dict(sorted(sizes.items()))
    arguments = () if columns is None else (columns,)
    try:
        pybigtools.open(str(path), "w").write(used, _chained(first, source), *arguments)
        covered = pybigtools.open(str(path)).info()["summary"]["basesCovered"] if source.ended else -1
    except BaseException as error:
        if source.error is None and isinstance(error, KeyboardInterrupt):
            raise
        covered = -1
    if source.error is not None:
        raise source.error
    if covered != source.bases:
        raise NotWritableError(f"{path}: written incompletely; free some space and run the same command again")


def _chained(first: T, rest: Iterator[T]) -> Iterator[T]:
    yield first
    yield from rest
