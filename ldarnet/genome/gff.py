"""Read the features of GFF3 files, plain or compressed."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from ldarnet.errors import UserError
from ldarnet.genome.bed import BedInterval, is_position
from ldarnet.genome.sources import text_lines
from ldarnet.printable import printable

_COLUMNS = 9


def is_gff(path: Path) -> bool:
    """Whether a file is GFF3 rather than BED, judged by its version line or its first line with columns.

    Raises:
        UserError: the file is missing or damaged.
    """
    for line in text_lines(path):
        if line.startswith("##gff-version"):
            return True
        if line.strip() and not line.startswith(("#", "track ", "browser ")):
            fields = line.split("\t")
            return len(fields) == _COLUMNS and all(map(is_position, fields[3:5])) and not is_position(fields[1])
    return False


def read_gff(path: Path) -> Iterator[BedInterval]:
    """Read the features of a GFF3 file in file order.

    Yields:
        The interval of each feature, 0-based and half-open as in BED, with the feature type as its `name`.

    Raises:
        UserError: the file is missing or damaged, has no features, or has a line that is not GFF3.
    """
    found = False
    for number, line in enumerate(text_lines(path), start=1):
        if line.startswith(("##FASTA", ">")):
            break
        if line.strip() and not line.startswith("#"):
            found = True
            yield parse_gff_line(f"{path}: line {number}", line.split("\t"), number)
    if not found:
        raise UserError(f"{path}: no features; choose a GFF3 file with at least one feature")


def parse_gff_line(place: str, fields: list[str], number: int) -> BedInterval:
    """Interval of a GFF3 or GTF line, split at tabs.

    Raises:
        UserError: the line is malformed; ``place`` is its location in the message.
    """
    if len(fields) != _COLUMNS or not (fields[0] and fields[2] and all(map(is_position, fields[3:5]))):
        raise UserError(f"{place}: not a GFF3 line; write {_COLUMNS} columns separated by tabs")
    first, last = int(fields[3]), int(fields[4])
    contig = unquote(fields[0])
    if not 1 <= first <= last:
        raise UserError(f"{place}: {printable(contig)}:{first}-{last} is empty; GFF3 needs 1 <= start <= end")
    return BedInterval(contig, first - 1, last, number, unquote(fields[2]))
