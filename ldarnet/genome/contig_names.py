"""Contig names: tables that map them, such as those of UCSC to those of Ensembl, and names with coordinates."""

import re
from pathlib import Path

from ldarnet.errors import UserError
from ldarnet.genome.bed import is_position
from ldarnet.genome.sources import text_lines
from ldarnet.printable import printable

_PLACED = re.compile(r"(.+):([0-9]+)-([0-9]+)")


def read_contig_names(path: Path, columns: str) -> dict[str, str]:
    """Read a table with two names per line, separated by a tab; skip comments.

    Args:
        path: path of the file.
        columns: what the two columns contain, for error messages.

    Returns:
        Name in column 1 -> name in column 2.

    Raises:
        UserError: the file cannot be read or has no names, a line does not have two columns, or two lines map the same
            name to different names.
    """
    names: dict[str, str] = {}
    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 2 or not all(fields):
            raise UserError(f"{path}: line {number}: not two columns; write {columns}")
        if names.setdefault(*fields) != fields[1]:
            raise UserError(
                f"{path}: line {number}: {printable(fields[0])} is already mapped to another name; keep one of the "
                "lines"
            )
    if not names:
        raise UserError(f"{path}: no contig names; write one line per contig: {columns}")
    return names


def place_of(name: str, length: int) -> tuple[str, int]:
    """Contig and start of a sequence named as by `samtools faidx`, `contig:start-end` with positions from 1.

    The name itself and 0 if it is not of this form, or if its range does not have `length` bases.
    """
    match = _PLACED.fullmatch(name)
    if match and all(map(is_position, match.groups()[1:])):
        start, end = int(match[2]) - 1, int(match[3])
        if start >= 0 and end - start == length:
            return match[1], start
    return name, 0
