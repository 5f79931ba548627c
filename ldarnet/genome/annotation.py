"""Read annotations with strands: intervals and transcripts of GFF3, GTF and BED files, plain or compressed."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from ldarnet.errors import UserError
from ldarnet.genome.bed import is_position
from ldarnet.genome.gff import is_gff, parse_gff_line
from ldarnet.genome.sources import text_lines
from ldarnet.printable import printable

Strand = Literal["+", "-", "."]

Spans = list[tuple[int, int]]
"""Start and end of intervals of one contig, 0-based and half-open."""

_GTF_ATTRIBUTE = re.compile(r'(\w+) "([^"]*)"')


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
        parents: identifiers of features that it belongs to: the transcripts, for exons and coding segments.
        identifier: ``ID`` of a GFF3 line; empty in other files.
        name: ``Name`` of GFF3, ``gene_name`` or ``gene_id`` of GTF, column 4 of BED; may be empty.
    """

    contig: str
    start: int
    end: int
    line: int
    kind: str
    strand: Strand
    parents: tuple[str, ...] = ()
    identifier: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Transcript:
    """A transcript, or a gene without transcripts.

    Attributes:
        contig: name of the contig.
        start: first base, 0-based.
        end: position after the last base.
        strand: ``+``, ``-`` or ``.``.
        name: name of its gene; may be empty.
        exons: exons, sorted by position.
        coding: coding segments, sorted by position.
    """

    contig: str
    start: int
    end: int
    strand: Strand
    name: str
    exons: Spans
    coding: Spans

    @classmethod
    def of(cls, contig: str, strand: Strand, exons: Spans, coding: Spans, name: str = "") -> "Transcript":
        """Transcript with at least one exon or coding segment, from its first to its last base."""
        ends = [position for span in [*exons, *coding] for position in span]
        return cls(contig, min(ends), max(ends), strand, name, sorted(exons), sorted(coding))

    @property
    def introns(self) -> Spans:
        """Gaps between consecutive exons."""
        pairs = zip(self.exons, self.exons[1:], strict=False)
        return [(left[1], right[0]) for left, right in pairs if left[1] < right[0]]


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
    found = parse_gff_line(place, fields, number)
    parents, identifier, name = _attributes(fields[8])
    return AnnotatedInterval(
        found.contig, found.start, found.end, number, found.name, _strand(fields[6]), parents, identifier, name
    )


def _bed_line(place: str, line: str, number: int) -> AnnotatedInterval:
    fields = line.split("\t") if "\t" in line else line.split()
    if len(fields) < 3 or not all(map(is_position, fields[1:3])):
        raise UserError(f"{place}: not a BED line; write contig, start, end, separated by tabs")
    contig, start, end = fields[0], int(fields[1]), int(fields[2])
    if start >= end:
        raise UserError(f"{place}: {printable(contig)}:{start}-{end} is empty; start must be < end")
    strand = _strand(fields[5].strip() if len(fields) > 5 else ".")
    name = fields[3].strip() if len(fields) > 3 else ""
    return AnnotatedInterval(contig, start, end, number, "", strand, name=name)


def _strand(text: str) -> Strand:
    return "+" if text == "+" else "-" if text == "-" else "."


def _attributes(column: str) -> tuple[tuple[str, ...], str, str]:
    """Parents, identifier and name; see `AnnotatedInterval`."""
    pairs = (attribute.strip().partition("=") for attribute in column.split(";"))
    found = {key: value for key, equals, value in pairs if equals}
    parents = tuple(unquote(parent) for parent in found.get("Parent", "").split(",") if parent)
    if found.keys().isdisjoint(("ID", "Parent", "Name")):  # GTF; values of GFF3 may have quotes too
        gtf = dict(_GTF_ATTRIBUTE.findall(column))
        transcript = gtf.get("transcript_id", "")
        return (transcript,) if transcript else (), "", gtf.get("gene_name") or gtf.get("gene_id", "")
    return parents, unquote(found.get("ID", "")), unquote(found.get("Name", ""))


def transcripts_of(lines: Iterable[AnnotatedInterval]) -> list[Transcript]:
    """Build the transcripts from their exons and coding segments; genes of GFF3 without transcripts come last.

    A transcript is named after its gene. Without a name, it has the identifier, without a prefix such as ``gene:``.
    """
    exons: dict[tuple[str, str, Strand], Spans] = defaultdict(list)
    coding: dict[tuple[str, str, Strand], Spans] = defaultdict(list)
    nodes, names = dict[str, AnnotatedInterval](), dict[str, str]()
    for row in lines:
        table = exons if row.kind == "exon" else coding if row.kind == "CDS" else None
        if table is None:
            if row.identifier:
                nodes[row.identifier] = row
            continue
        for parent in row.parents:
            table[row.contig, parent, row.strand].append((row.start, row.end))
            names.setdefault(parent, "" if row.identifier else row.name)
    found, used = list[Transcript](), set[str]()
    for key in dict.fromkeys([*exons, *coding]):
        contig, identifier, strand = key
        node = nodes.get(identifier)
        gene = nodes.get(node.parents[0]) if node and node.parents else None
        used |= {shown.identifier for shown in (node, gene) if shown is not None}
        named = gene or node
        name = _name(named) if named else names[identifier] or identifier
        found.append(Transcript.of(contig, strand, exons.get(key, []), coding.get(key, []), name))
    alone = (node for node in nodes.values() if node.kind.endswith("gene") and node.identifier not in used)
    return found + [Transcript(row.contig, row.start, row.end, row.strand, _name(row), [], []) for row in alone]


def _name(row: AnnotatedInterval) -> str:
    return row.name or row.identifier.rpartition(":")[2]
