"""Text tables (csv and tsv), plain or compressed, with any line endings and with or without a byte order mark."""

import csv
import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ldarnet.errors import UserError
from ldarnet.genome.sources import RawFile, text_pieces
from ldarnet.tasks.rows import MAX_LENGTH, Columns, Records, bounded, check_rows, find_columns

SEPARATORS = {".tsv": "\t", ".tab": "\t", ".csv": ","}
"""Separator between columns, by suffix."""

_OTHER_SEPARATORS = {
    "\t": "tabs, but the suffix stands for commas; rename the file to .tsv",
    ",": "commas, but the suffix stands for tabs; rename the file to .csv",
    ";": "semicolons; save the file with commas or tabs",
}
_OTHER_CONTENT = {
    b"PAR1": "a Parquet file; rename it to .parquet",
    b">": "FASTA; rename it to .fa",
}
"""What a file is that starts with these bytes, and what to do."""


def read_table(path: Path, separator: str, columns: Columns) -> Records:
    """Read labeled sequences from a table.

    Raises:
        UserError: the file cannot be read, is damaged, is not a table, or exceeds a limit.
    """
    rows = read_rows(path, separator)
    _, header = next(rows, (1, []))
    if not header:
        return Records(path, "line", [], [], [], [])
    where = f"{path}: line 1"
    _check_separator(where, header)
    sequence, label_columns, name = find_columns(where, header, columns)
    locations: list[int | str] = []
    names, sequences, labels = list[str](), list[str](), list[str]()
    for line, row in rows:
        locations.append(line)
        names.append("" if name is None else row[name])
        sequences.append(row[sequence])
        labels.append(sys.intern("\t".join([row[label] for label in label_columns])))
    targets = tuple(header[label] for label in label_columns)
    return Records(path, "line", locations, names, sequences, labels, targets)


def read_rows(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) for each row, starting with the header. Lines count from 1; empty lines are skipped.

    Raises:
        UserError: the file cannot be read, is damaged, is not a text table, has a row with a different number of cells
            than the header, or exceeds a limit.
    """
    csv.field_size_limit(MAX_LENGTH)  # the default, 131,072 characters, is too small for long sequences
    # Quotation marks have no special meaning inside tsv fields; `_unquoted` strips those around a whole field.
    quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    columns = 0
    with open_text(path) as file:
        reader = csv.reader(file, delimiter=separator, quoting=quoting, strict=True)
        try:
            for number, row in enumerate(filter(None, reader)):
                columns = columns or len(row)
                if len(row) != columns:
                    where = f"{path}: line {reader.line_num}"
                    raise UserError(f"{where}: {len(row)} columns, but {columns} in the header; fix the line")
                check_rows(path, number)
                yield reader.line_num, _unquoted(row)
        except csv.Error as error:
            raise UserError(f"{path}: line {reader.line_num}: {error}; fix the line") from None


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file for reading. Compression is detected from the content of the file.

    Raises:
        UserError: the file cannot be read, is truncated or damaged, is not UTF-8 text, or exceeds a limit.
    """
    with RawFile(str(path)) as raw:
        content = io.BufferedReader(_Pieces(bounded(path, text_pieces(raw))))
        head = content.peek(64)[:64]
        for start, found in _OTHER_CONTENT.items():
            if head.startswith(start):
                raise UserError(f"{path}: not a text table but {found}")
        if b"\0" in head:
            raise UserError(f"{path}: not UTF-8 text (contains NUL bytes); save it as UTF-8")
        try:
            with io.TextIOWrapper(content, encoding="utf-8-sig", newline="") as file:
                yield file
        except UnicodeDecodeError:
            raise UserError(f"{path}: not UTF-8; save it as UTF-8") from None


class _Pieces(io.RawIOBase):
    """A binary stream that reads from an iterator of bytes objects."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__()
        self._pieces, self._rest = iter(pieces), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _unquoted(row: list[str]) -> list[str]:
    return [text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text for text in row]


def _check_separator(where: str, header: list[str]) -> None:
    """Raise an error if the header is a single cell that contains another separator."""
    for separator, problem in _OTHER_SEPARATORS.items():
        if len(header) == 1 and separator in header[0]:
            raise UserError(f"{where}: the columns are separated by {problem}")
