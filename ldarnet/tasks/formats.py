"""Read labeled sequences from csv, tsv, FASTA (optionally .gz) and Parquet files.

Only the file format is checked here; `ldarnet.tasks.labels` validates sequences and labels.
"""

import csv
import errno
import gzip
import io
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ldarnet.errors import UserError
from ldarnet.genome import fasta
from ldarnet.io.files import file_size, read_errors

SEQUENCE_COLUMNS = ("sequence", "seq", "dna_sequence", "dna_seq", "dna", "text")
LABEL_COLUMNS = ("label", "labels", "class", "y")
NAME_COLUMNS = ("name", "id")
FASTA_SUFFIXES = (".fna", ".fa", ".fasta")
TABLE_SUFFIXES = {".tsv": "\t", ".tab": "\t", ".csv": ","}
PARQUET_SUFFIX = ".parquet"


@dataclass(frozen=True, slots=True)
class Columns:
    """Column names in tables; None to detect common names."""

    sequence: str | None = None
    label: str | None = None
    name: str | None = None


AUTO = Columns()


@dataclass(frozen=True, slots=True)
class Records:
    """The n raw rows of one split, before validation.

    Attributes:
        path: file, or folder if each row has its own file.
        unit: unit of `locations` (line, row or record); empty if `locations` are file names in `path`.
        locations: location of each row in `path`.
        names: name of each row; empty if the row has no name.
        sequences: sequence of each row.
        labels: label of each row; empty if the row has no label.
    """

    path: Path
    unit: str
    locations: Sequence[int | str]
    names: list[str]
    sequences: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.sequences)

    def error(self, row: int, message: str) -> UserError:
        """Build an error that states the location of a row; `row` counts from 0."""
        return UserError(f"{self.path}: {f'{self.unit} {self.locations[row]}'.strip()}: {message}")


def file_format(path: Path) -> str:
    """Suffix that determines the file format, in lower case and without `.gz`.

    Raises:
        UserError: the suffix is unknown, or the file is gzipped Parquet.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else suffixes[-1] if suffixes else ""
    known = (*TABLE_SUFFIXES, *FASTA_SUFFIXES, PARQUET_SUFFIX)
    if suffix not in known:
        raise UserError(f"{path}: unknown file format; use one of {', '.join(known)}, optionally .gz")
    if suffix == PARQUET_SUFFIX and suffixes[-1] == ".gz":
        raise UserError(
            f"{path}: gzipped Parquet is not supported, as Parquet has its own compression; unpack it with gunzip"
        )
    return suffix


def read_records(path: Path, columns: Columns = AUTO) -> Records:
    """Read a file of labeled sequences; its suffix determines the format.

    Tables start with a line of column names. FASTA headers end with `|` and the label: `>name|1`.

    Raises:
        UserError: the file is missing, empty, damaged or malformed.
    """
    suffix = file_format(path)
    if not file_size(path):
        raise UserError(f"{path}: empty file; choose a file with labeled sequences")
    if suffix in TABLE_SUFFIXES:
        records = _read_table(path, TABLE_SUFFIXES[suffix], columns)
    elif suffix == PARQUET_SUFFIX:
        records = _read_parquet(path, columns)
    else:
        records = _read_labeled_fasta(path)
    if not len(records):
        raise UserError(f"{path}: no sequences; choose a file with labeled sequences")
    return records


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file, plain or gzip, for reading.

    Raises:
        UserError: the file cannot be read, is truncated or damaged, or is not UTF-8.
    """
    with read_errors(path):
        try:
            with io.TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", newline="") as file:
                yield file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}: damaged or truncated ({error}); download it again") from None
        except UnicodeDecodeError:
            raise UserError(f"{path}: not UTF-8; save it as UTF-8") from None


@contextmanager
def damage_errors(path: Path, otherwise: str, *faults: type[Exception]) -> Iterator[None]:
    """Convert decoder errors inside the block into a `UserError` about `path`.

    Args:
        path: the file being decoded.
        otherwise: alternative explanation, such as `not Parquet`.
        faults: decoder exceptions to convert, in addition to ValueError and OSError without an errno.

    Raises:
        TransientError: the operating system failed to read the file.
        UserError: the file is damaged or cannot be read.
    """
    with read_errors(path):
        try:
            yield
        except (ValueError, OSError, *faults) as error:
            # Decoders raise OSError without an errno; seeking to a damaged offset fails with EINVAL.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"{path}: damaged or {otherwise} ({reason}); download it again") from None


def _open_bytes(path: Path) -> io.BufferedReader:
    return io.BufferedReader(gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def _read_labeled_fasta(path: Path) -> Records:
    """Read FASTA with headers `name|label`, as in the Nucleotide Transformer tasks; the label follows the last `|`."""
    locations: list[int | str] = []
    names, sequences, labels = [], [], []
    for header, sequence in fasta.read_records(path):
        name, bar, label = header.text.rpartition("|")
        if not bar:
            raise UserError(
                f"{path}: line {header.line}: the header {header.text[:60]!r} has no label; write it as >name|label"
            )
        locations.append(header.line)
        names.append(name)
        sequences.append(sequence)
        labels.append(label)
    return Records(path, "line", locations, names, sequences, labels)


def _read_table(path: Path, delimiter: str, columns: Columns) -> Records:
    csv.field_size_limit(sys.maxsize)  # the default, 131,072 characters, is too small for long sequences
    rows: list[list[str]] = []
    locations: list[int | str] = []
    with open_text(path) as file:
        # Quotation marks have no special meaning inside tsv fields; `_unquoted` strips those around a whole field.
        quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        try:
            header = _unquoted(next(reader, []))
            if not header:
                return Records(path, "line", [], [], [], [])
            sequence, label, name = _find_columns(f"{path}: line 1", header, columns)
            for row in filter(None, reader):
                if len(row) != len(header):
                    where = f"{path}: line {reader.line_num}"
                    raise UserError(f"{where}: {len(row)} columns, but {len(header)} in the header; fix the line")
                rows.append(_unquoted(row))
                locations.append(reader.line_num)
        except csv.Error as error:
            raise UserError(f"{path}: line {reader.line_num}: {error}; fix the line") from None
    names = [row[name] for row in rows] if name is not None else [""] * len(rows)
    return Records(path, "line", locations, names, [row[sequence] for row in rows], [row[label] for row in rows])


def _unquoted(row: list[str]) -> list[str]:
    return [text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text for text in row]


def _read_parquet(path: Path, columns: Columns) -> Records:
    import pyarrow
    from pyarrow import parquet

    def damage() -> AbstractContextManager[None]:
        return damage_errors(path, "not Parquet", pyarrow.ArrowException, KeyError, OverflowError)

    with damage():
        header = list(parquet.read_schema(path).names)
    sequence, label, name = _find_columns(str(path), header, columns)
    used = [header[column] for column in (sequence, label, name) if column is not None]
    with damage():
        table = parquet.read_table(path, columns=used)
        texts = {title: ["" if value is None else str(value) for value in table[title].to_pylist()] for title in used}
    names = texts[header[name]] if name is not None else [""] * table.num_rows
    locations = range(1, table.num_rows + 1)
    return Records(path, "row", locations, names, texts[header[sequence]], texts[header[label]])


def _find_columns(where: str, header: Sequence[str], columns: Columns) -> tuple[int, int, int | None]:
    """Indices of the sequence, label and name columns; the last is None if there is no name column."""
    plain = [title.strip() for title in header]
    if duplicates := [title for title in dict.fromkeys(plain) if plain.count(title) > 1]:
        raise UserError(f"{where}: {plain.count(duplicates[0])} columns named {duplicates[0]!r}; rename all but one")
    present = ", ".join(repr(title[:30]) for title in plain[:8])

    def find(what: str, given: str | None, common: Sequence[str]) -> int | None:
        if given is not None:
            if given not in plain:
                raise UserError(f"{where}: data.{what}_column={given}: no such column; use one of {present}")
            return plain.index(given)
        lower = [title.lower() for title in plain]
        return next((lower.index(title) for title in common if title in lower), None)

    sequence = find("sequence", columns.sequence, SEQUENCE_COLUMNS)
    label = find("label", columns.label, LABEL_COLUMNS)
    for what, column in (("sequence", sequence), ("label", label)):
        if column is None:
            hint = f"the first line must contain the column names; set data.{what}_column to choose a column"
            if len(plain) == 1:
                hint += "; columns are separated by commas in .csv files and by tabs in .tsv files"
            raise UserError(f"{where}: no {what} column among {present}; {hint}")
    assert sequence is not None and label is not None
    return sequence, label, find("name", columns.name, NAME_COLUMNS)
