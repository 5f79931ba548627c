"""Read BED files, plain or compressed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ldarnet.errors import UserError
from ldarnet.genome.sources import text_lines
from ldarnet.printable import printable

_MAX_DIGITS = 15


@dataclass(frozen=True, slots=True, order=True)
class BedInterval:
    """One line of a BED file: a 0-based, half-open interval.

    Attributes:
        contig: column 1.
        start: column 2.
        end: column 3.
        line: line number, from 1.
        name: column 4; empty if not requested, or if there is none.
    """

    contig: str
    start: int
    end: int
    line: int
    name: str = ""


def read_bed(
    path: Path, *, name: str | None = None, optional_name: bool = False, delimiter: str | None = None
) -> Iterator[BedInterval]:
    """Read the intervals of a BED file in file order.

    Comments, ``track`` lines, ``browser`` lines and extra columns are ignored.

    Args:
        path: path of the file.
        name: what column 4 contains, for error messages. If None, column 4 may be missing.
        optional_name: if ``name`` is None, whether to read column 4 where there is one.
        delimiter: column delimiter; any whitespace by default.

    Raises:
        UserError: the file is missing or damaged, contains no intervals, or has a line that is not BED.
    """
    found = False
    for number, line in enumerate(text_lines(path), start=1):
        if not _is_comment(line):
            found = True
            yield _parse(f"{path}: line {number}", line, number, name, optional_name, delimiter)
    if not found:
        raise UserError(f"{path}: no intervals; write one line per interval: {_columns(name)}")


def _parse(
    place: str, line: str, number: int, name: str | None, optional_name: bool, delimiter: str | None
) -> BedInterval:
    fields = [field.strip() for field in line.split(delimiter)]
    required = 3 if name is None else 4
    if len(fields) < required or not all(fields[:required]) or not all(map(is_position, fields[1:3])):
        raise UserError(f"{place}: not a BED line; write {_columns(name)}, separated by tabs")
    has_name = name is not None or (optional_name and len(fields) > 3)
    interval = BedInterval(fields[0], int(fields[1]), int(fields[2]), number, fields[3] if has_name else "")
    if interval.start >= interval.end:
        raise UserError(
            f"{place}: {printable(interval.contig)}:{interval.start}-{interval.end} is empty; start must be < end"
        )
    return interval


def is_position(text: str) -> bool:
    """Whether a field is a non-negative integer of at most 15 digits."""
    return text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS


def _columns(name: str | None) -> str:
    return "contig, start, end" if name is None else f"contig, start, end, {name}"


def _is_comment(line: str) -> bool:
    """Whether a line is empty, a comment, or a ``track`` or ``browser`` line (but not a contig named ``track1``)."""
    words = line.split(maxsplit=1)
    return not words or words[0].startswith("#") or words[0] in ("track", "browser")
