"""Read annotations with strands: GFF3, GTF and BED files, plain or compressed."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from ldarnet.errors import UserError
from ldarnet.genome.bed import is_position
from ldarnet.genome.gff import is_gff
from ldarnet.genome.sources import text_lines
from ldarnet.printable import printable

Strand = Literal["+", "-", "."]

_COLUMNS = 9
_GTF_TRANSCRIPT = re.compile(r'transcript_id "([^"]*)"')


@dataclass(frozen=True, slots=True)
class AnnotatedInterval:
    """One line of an annotation: a 0-based, half-open interval.

    Attributes:
        contig: name of the contig.
        start: position of the first base.
        end: position after the last base.
        line: line number, from 1.
        kind: feature type of GFF3 and GTF, such as ``exon``; empty in BED files.
        strand: ``+``, ``-``, or ``.`` if there is none.
        parents: transcripts that it belongs to.
    """

    contig: str
    start: int
    end: int
    line: int
    kind: str
    strand: Strand
    parents: tuple[str, ...] = ()


def read_annotation(path: Path) -> tuple[bool, Iterator[AnnotatedInterval]]:
    """Read an annotation; formats are recognized by content.

    Returns:
        Whether the file is GFF3 or GTF rather than BED; and its lines, in file order.

    Raises:
        UserError: the file is missing or damaged, has no intervals, or has a malformed line.
    """
    gff = is_gff(path)
    return gff, _lines(path, gff)


def _lines(path: Path, gff: bool) -> Iterator[AnnotatedInterval]:
    found = False
    for number, line in enumerate(text_lines(path), start=1):
        if gff and line.startswith(("##FASTA", ">")):
            break
        if not line.strip() or line.startswith("#") or line.split(maxsplit=1)[0] in ("track", "browser"):
            continue
        found = True
        place = f"{path}: line {number}"
        yield _gff_line(place, line, number) if gff else _bed_line(place, line, number)
    if not found:
        raise UserError(f"{path}: no intervals; choose a GFF3, GTF or BED file with at least one")


def _gff_line(place: str, line: str, number: int) -> AnnotatedInterval:
    fields = line.rstrip("\n").split("\t")
    if len(fields) != _COLUMNS or not (fields[0] and fields[2] and all(map(is_position, fields[3:5]))):
        raise UserError(f"{place}: not a GFF3 line; write {_COLUMNS} columns separated by tabs")
    contig, start, end = unquote(fields[0]), int(fields[3]) - 1, int(fields[4])
    if not 0 <= start < end:
        raise UserError(f"{place}: {printable(contig)}:{start + 1}-{end} is empty; GFF3 needs 1 <= start <= end")
    return AnnotatedInterval(contig, start, end, number, unquote(fields[2]), _strand(fields[6]), _parents(fields[8]))


def _bed_line(place: str, line: str, number: int) -> AnnotatedInterval:
    fields = line.split("\t") if "\t" in line else line.split()
    if len(fields) < 3 or not all(map(is_position, fields[1:3])):
        raise UserError(f"{place}: not a BED line; write contig, start, end, separated by tabs")
    contig, start, end = fields[0], int(fields[1]), int(fields[2])
    if start >= end:
        raise UserError(f"{place}: {printable(contig)}:{start}-{end} is empty; start must be < end")
    return AnnotatedInterval(contig, start, end, number, "", _strand(fields[5].strip() if len(fields) > 5 else "."))


def _strand(text: str) -> Strand:
    return "+" if text == "+" else "-" if text == "-" else "."


def _parents(attributes: str) -> tuple[str, ...]:
    """Values of ``Parent`` (GFF3) or ``transcript_id`` (GTF)."""
    for attribute in attributes.split(";"):
        key, equals, value = attribute.strip().partition("=")
        if equals and key == "Parent":
            return tuple(unquote(parent) for parent in value.split(","))
    match = _GTF_TRANSCRIPT.search(attributes)
    return (match[1],) if match and match[1] else ()
