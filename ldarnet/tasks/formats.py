"""Reading labelled sequences from csv, tsv and FASTA files, plain or .gz, and Parquet: as they stand, row by row.

Nothing is judged here but the form of a file; `ldarnet.tasks.labels` makes sequences and classes of what was read.
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
    """What the columns of a user's tables are called; None to find them by common names."""

    sequence: str | None = None
    label: str | None = None
    name: str | None = None


COMMON = Columns()


@dataclass(frozen=True, slots=True)
class Records:
    """The rows of one split as they were read, n of them.

    Attributes:
        path: the file, or the folder of many.
        unit: what ``places`` counts: line, row or record; empty where they are files in ``path``.
        places: n places in ``path``.
        names: n names, empty where a row has none.
        sequences: n sequences as they were read.
        labels: n labels as they were read, empty where a row has none.
    """

    path: Path
    unit: str
    places: Sequence[int | str]
    names: list[str]
    sequences: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.sequences)

    def error(self, row: int, message: str) -> UserError:
        """An error that names a row, counted from 0."""
        return UserError(f"{self.path}: {f'{self.unit} {self.places[row]}'.strip()}: {message}")


def file_format(path: Path) -> str:
    """The suffix that tells the format, without ``.gz`` and in lower case.

    Raises:
        UserError: it is none that is known, or Parquet in gzip.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else suffixes[-1] if suffixes else ""
    known = (*TABLE_SUFFIXES, *FASTA_SUFFIXES, PARQUET_SUFFIX)
    if suffix not in known:
        raise UserError(
            f"{path}: not a known format of labelled sequences; save it as one of {', '.join(known)} (or .gz)"
        )
    if suffix == PARQUET_SUFFIX and suffixes[-1] == ".gz":
        raise UserError(f"{path}: Parquet is not read from .gz, it is compressed within; unpack it with gunzip")
    return suffix


def read_records(path: Path, columns: Columns = COMMON) -> Records:
    """Read a file of labelled sequences in the format that its name tells.

    A table has a line of column names. A FASTA header ends with a bar and the label: ``>name|1``.

    Raises:
        UserError: the file is missing, empty, damaged or of another form; names the file, the place and the remedy.
    """
    suffix = file_format(path)
    if not file_size(path):
        raise UserError(f"{path}: empty; name a file with labelled sequences")
    if suffix in TABLE_SUFFIXES:
        records = _read_table(path, TABLE_SUFFIXES[suffix], columns)
    elif suffix == PARQUET_SUFFIX:
        records = _read_parquet(path, columns)
    else:
        records = _read_labelled_fasta(path)
    if not len(records):
        raise UserError(f"{path}: no sequences; name a file with labelled sequences")
    return records


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A text file, plain or gzip, for reading.

    Raises:
        UserError: it cannot be read, is cut short or damaged, or is no UTF-8 text.
    """
    with read_errors(path):
        try:
            with io.TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", newline="") as file:
                yield file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}: damaged or cut short ({error}); get it again") from None
        except UnicodeDecodeError:
            raise UserError(f"{path}: no UTF-8 text; save it as UTF-8") from None


@contextmanager
def damage_errors(path: Path, otherwise: str, *faults: type[Exception]) -> Iterator[None]:
    """Turn what a decoder raises at damaged bytes of ``path`` inside the block into a `UserError` that names it.

    Args:
        path: the file.
        otherwise: what it may be if it is not damaged, such as ``no Parquet``.
        faults: what the decoder raises beside ValueError and an OSError that is not of the operating system.

    Raises:
        TransientError: the operating system failed to read it, which may pass.
        UserError: the file is damaged, or cannot be read.
    """
    with read_errors(path):
        try:
            yield
        except (ValueError, OSError, *faults) as error:
            # A decoder's own OSError has no number; a damaged offset makes a seek that the system calls invalid.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            said = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"{path}: damaged or {otherwise} ({said}); get it again") from None


def _open_bytes(path: Path) -> io.BufferedReader:
    return io.BufferedReader(gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def _read_labelled_fasta(path: Path) -> Records:
    """Header ``name|label``, the form of the Nucleotide Transformer's tasks: the label stands behind the last bar."""
    places: list[int | str] = []
    names, sequences, labels = [], [], []
    for header, sequence in fasta.read_records(path):
        name, bar, label = header.text.rpartition("|")
        if not bar:
            raise UserError(
                f"{path}: line {header.line}: the header {header.text[:60]!r} has no label; write it as >name|label"
            )
        places.append(header.line)
        names.append(name)
        sequences.append(sequence)
        labels.append(label)
    return Records(path, "line", places, names, sequences, labels)


def _read_table(path: Path, delimiter: str, columns: Columns) -> Records:
    csv.field_size_limit(sys.maxsize)  # the module's own limit is less than a long sequence
    rows: list[list[str]] = []
    places: list[int | str] = []
    with open_text(path) as file:
        # In a tsv file a quotation mark may stand anywhere; those around a whole field `_unquoted` takes away.
        quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        try:
            header = _unquoted(next(reader, []))
            if not header:
                return Records(path, "line", [], [], [], [])
            sequence, label, name = _find_columns(f"{path}: line 1", header, columns)
            for row in filter(None, reader):
                if len(row) != len(header):
                    place = f"{path}: line {reader.line_num}"
                    raise UserError(f"{place}: {len(row)} columns, but {len(header)} in the first line; mend the line")
                rows.append(_unquoted(row))
                places.append(reader.line_num)
        except csv.Error as error:
            raise UserError(f"{path}: line {reader.line_num}: {error}; mend the line") from None
    names = [row[name] for row in rows] if name is not None else [""] * len(rows)
    return Records(path, "line", places, names, [row[sequence] for row in rows], [row[label] for row in rows])


def _unquoted(row: list[str]) -> list[str]:
    return [text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text for text in row]


def _read_parquet(path: Path, columns: Columns) -> Records:
    import pyarrow
    from pyarrow import parquet

    def damage() -> AbstractContextManager[None]:
        return damage_errors(path, "no Parquet", pyarrow.ArrowException, KeyError, OverflowError)

    with damage():
        header = list(parquet.read_schema(path).names)
    sequence, label, name = _find_columns(str(path), header, columns)
    wanted = [header[column] for column in (sequence, label, name) if column is not None]
    with damage():
        table = parquet.read_table(path, columns=wanted)
        texts = {title: ["" if value is None else str(value) for value in table[title].to_pylist()] for title in wanted}
    names = texts[header[name]] if name is not None else [""] * table.num_rows
    places = range(1, table.num_rows + 1)
    return Records(path, "row", places, names, texts[header[sequence]], texts[header[label]])


def _find_columns(place: str, header: Sequence[str], columns: Columns) -> tuple[int, int, int | None]:
    """Where sequence, label and name stand; None for a name that there is not."""
    plain = [title.strip() for title in header]
    if twice := [title for title in dict.fromkeys(plain) if plain.count(title) > 1]:
        raise UserError(f"{place}: the column {twice[0]!r} is there {plain.count(twice[0])} times; rename all but one")
    there = ", ".join(repr(title[:30]) for title in plain[:8])

    def find(what: str, wanted: str | None, common: Sequence[str]) -> int | None:
        if wanted is not None:
            if wanted not in plain:
                raise UserError(f"{place}: no column {wanted!r} (data.{what}_column); there are {there}")
            return plain.index(wanted)
        lower = [title.lower() for title in plain]
        return next((lower.index(title) for title in common if title in lower), None)

    sequence = find("sequence", columns.sequence, SEQUENCE_COLUMNS)
    label = find("label", columns.label, LABEL_COLUMNS)
    for what, column in (("sequence", sequence), ("label", label)):
        if column is None:
            remedy = f"the first line names the columns, and data.{what}_column the one that holds it"
            if len(plain) == 1:
                remedy += "; .csv has commas between columns, .tsv tabs"
            raise UserError(f"{place}: no column for the {what} among {there}; {remedy}")
    assert sequence is not None and label is not None
    return sequence, label, find("name", columns.name, NAME_COLUMNS)
