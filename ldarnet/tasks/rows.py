"""Rows of labeled sequences as read from a file, their columns, and the limits on what a file may contain.

A file of a few megabytes can decompress to more than the memory of the machine. Every reader of task files therefore
stops at these limits.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ldarnet.errors import UserError

MAX_BYTES = 2**31
"""Maximum size of the text in a file, in bytes after decompression."""
MAX_ROWS = 10**7
"""Maximum number of rows in a file."""
MAX_LENGTH = 2**23
"""Maximum length of a line or a sequence in bytes."""

SEQUENCE_COLUMNS = ("sequence", "seq", "dna_sequence", "dna_seq", "dna", "text")
LABEL_COLUMNS = ("label", "labels", "class", "y")
NAME_COLUMNS = ("name", "id")


@dataclass(frozen=True, slots=True)
class Columns:
    """Titles of the columns with sequences, labels and row names; None to look for common titles.

    Several label columns are the targets of a regression.
    """

    sequence: str | None = None
    label: str | Sequence[str] | None = None
    name: str | None = None


AUTO = Columns()


@dataclass(frozen=True, slots=True)
class Records:
    """Raw rows of one split, before validation.

    Attributes:
        path: the file; if each row has its own file, the folder or zip archive.
        unit: `line` or `row` if `locations` are line or row numbers, else empty.
        locations: location of each row in `path`.
        names: name of each row; an empty string if the row has no name.
        sequences: sequence of each row.
        labels: label of each row; an empty string if the row has no label; the cells of several label columns are
            joined by tabs.
        targets: titles of the label columns; empty for files without titles.
    """

    path: Path
    unit: str
    locations: Sequence[int | str]
    names: list[str]
    sequences: list[str]
    labels: list[str]
    targets: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sequences)

    def error(self, row: int, message: str) -> UserError:
        """Build an error that states the location of a row; `row` counts from 0."""
        return UserError(f"{self.path}: {f'{self.unit} {self.locations[row]}'.strip()}: {message}")


def find_columns(where: str, header: Sequence[str], columns: Columns) -> tuple[int, list[int], int | None]:
    """Indices of the sequence, label and name columns; the last is None if there is no name column.

    Raises:
        UserError: a column is missing, or two columns have the same name.
    """
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
    given = [columns.label] if isinstance(columns.label, str | None) else columns.label
    labels = [find("label", title, LABEL_COLUMNS) for title in given]
    for what, column in (("sequence", sequence), *(("label", label) for label in labels)):
        if column is None:
            raise UserError(
                f"{where}: no {what} column among {present}; the first line must contain the column names; set "
                f"data.{what}_column to choose a column"
            )
    assert sequence is not None
    return sequence, [label for label in labels if label is not None], find("name", columns.name, NAME_COLUMNS)


def check_size(path: Path, size: int) -> None:
    """Check the number of bytes of text read from a file so far.

    Raises:
        UserError: `size` exceeds `MAX_BYTES`.
    """
    if size > MAX_BYTES:
        raise UserError(f"{path}: more than {MAX_BYTES:,} bytes of text after decompression; use fewer rows")


def check_rows(path: Path, rows: int) -> None:
    """Check the number of rows read from a file so far.

    Raises:
        UserError: `rows` exceeds `MAX_ROWS`.
    """
    if rows > MAX_ROWS:
        raise UserError(f"{path}: more than {MAX_ROWS:,} rows; use fewer rows")


def check_length(where: str, length: int, what: str = "line") -> None:
    """Check the length, in bytes, of a line or a sequence.

    Raises:
        UserError: `length` exceeds `MAX_LENGTH`.
    """
    if length > MAX_LENGTH:
        raise UserError(f"{where}: a {what} of more than {MAX_LENGTH:,} bytes; shorten it")


def bounded(path: Path, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces of a decompressed text file, and check its total size and the length of each line.

    Raises:
        UserError: the file exceeds a limit.
    """
    size = length = 0
    line = 1
    for piece in pieces:
        size += len(piece)
        check_size(path, size)
        last = max(piece.rfind(b"\n"), piece.rfind(b"\r"))
        line += piece.count(b"\n")
        length = len(piece) - last - 1 if last >= 0 else length + len(piece)
        check_length(f"{path}: line {line}", length)
        yield piece
