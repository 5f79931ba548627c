"""Read tables that map contig names, such as those of UCSC to those of Ensembl."""

from pathlib import Path

from ldarnet.errors import UserError
from ldarnet.genome.sources import text_lines
from ldarnet.printable import printable


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
