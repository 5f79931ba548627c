"""Tables of alleles with the columns chrom, pos (from 1), ref and alt, as Parquet, TSV or CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldarnet.errors import UserError
from ldarnet.extras import optional_imports
from ldarnet.genome.bed import is_position
from ldarnet.genomics.variants.alleles import Allele
from ldarnet.genomics.variants.score import VariantScore
from ldarnet.printable import printable
from ldarnet.tasks.damage import damage_errors
from ldarnet.tasks.tables import SEPARATORS, read_rows

if TYPE_CHECKING:
    import pyarrow

PARQUET_SUFFIX = ".parquet"
COLUMNS = ("chrom", "pos", "ref", "alt")
SUFFIXES = (PARQUET_SUFFIX, *SEPARATORS)


def is_table(path: Path) -> bool:
    """Whether the name of a file is that of a table, compressed or not."""
    return _suffix(path) in SUFFIXES


def unit(path: Path) -> str:
    """What the records of a file are counted in."""
    return "row" if path.suffix == PARQUET_SUFFIX else "line"


def read_table(path: Path) -> tuple[pyarrow.Table, Sequence[int]]:
    """Read a table, and the number of each row in the file (its line, or its row in Parquet).

    Column names of text tables are in lower case, without a leading ``#``.

    Raises:
        UserError: the file cannot be read, is damaged, or has no rows.
        ModuleNotFoundError: pyarrow is not installed.
    """
    with optional_imports("a table of variants"):
        import pyarrow
        from pyarrow import parquet

    if path.suffix == PARQUET_SUFFIX:
        with damage_errors(path, "not Parquet", pyarrow.ArrowException), path.open("rb") as file:
            table = parquet.read_table(file)
        numbers: Sequence[int] = range(1, table.num_rows + 1)
    else:
        rows = list(read_rows(path, SEPARATORS[_suffix(path)]))
        names = [name.lower().removeprefix("#") for name in (rows[0][1] if rows else [])]
        columns = zip(*(row for _, row in rows[1:]), strict=True)
        table = pyarrow.table([pyarrow.array(column) for column in columns], names=names) if len(rows) > 1 else None
        numbers = [number for number, _ in rows[1:]]
    if table is None or not table.num_rows:
        raise UserError(f"{path}: no rows; choose a table with at least one row")
    return table, numbers


def table_alleles(path: Path, table: pyarrow.Table, numbers: Sequence[int]) -> Iterator[Allele]:
    """Yield the allele of each row.

    Raises:
        UserError: a column is missing, or a value is malformed.
    """
    names = table.column_names
    for column in COLUMNS:
        if names.count(column) != 1:
            raise UserError(
                f"{path}: {'no' if column not in names else 'more than one'} column {column}; name the columns "
                f"{', '.join(COLUMNS)}"
            )
    columns = (table.column(name).to_pylist() for name in COLUMNS)
    for number, contig, position, ref, alt in zip(numbers, *columns, strict=True):
        where = f"{path}: {unit(path)} {number}"
        text = str(position)
        if not is_position(text) or int(text) < 1:
            raise UserError(f"{where}: pos is {printable(text)!r}; write a position from 1")
        for name, value in (("chrom", contig), ("ref", ref), ("alt", alt)):
            if value is None or not str(value):
                raise UserError(f"{where}: {name} is empty; write a value")
        if "," in str(alt):
            raise UserError(f"{where}: more than one alt; write one row per allele")
        yield Allele(number, str(contig), int(text) - 1, str(ref).upper(), str(alt).upper())


def alleles_as_table(alleles: Sequence[Allele]) -> pyarrow.Table:
    """Build a table of alleles."""
    with optional_imports("a Parquet file of variants"):
        import pyarrow

    return pyarrow.table(
        {
            "chrom": [allele.contig for allele in alleles],
            "pos": [allele.position + 1 for allele in alleles],
            "ref": [allele.ref for allele in alleles],
            "alt": [allele.alt for allele in alleles],
        }
    )


def with_scores(table: pyarrow.Table, scores: Sequence[VariantScore], values: np.ndarray) -> pyarrow.Table:
    """Append a column for each score; columns with the same names are replaced.

    Args:
        table: one row per allele.
        scores: the scores.
        values: (rows, scores); NaN becomes null.
    """
    import pyarrow

    table = table.drop_columns([score.name for score in scores if score.name in table.column_names])
    for score, column in zip(scores, values.T, strict=True):
        missing = np.isnan(column)
        whole = np.where(missing, 0, column).astype(np.int64)
        numbers: Any = whole if score.kind == "Integer" else column.astype(np.float32)
        table = table.append_column(
            pyarrow.field(score.name, pyarrow.array(numbers[:0]).type, metadata={"description": score.description}),
            pyarrow.array(numbers, mask=missing),
        )
    return table


def write_parquet(path: Path, table: pyarrow.Table) -> None:
    """Write a table as Parquet."""
    from pyarrow import parquet

    parquet.write_table(table, path)


def _suffix(path: Path) -> str:
    """Suffix of a file name, without that of the compression for text tables."""
    name = path.name.lower()
    for compression in (".gz", ".bgz", ".bz2", ".xz", ".zst"):
        name = name.removesuffix(compression)
    return Path(name).suffix
