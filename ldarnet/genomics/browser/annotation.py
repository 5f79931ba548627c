"""Genes of a GFF3 file, or intervals of a BED file, as features of the browser."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ldarnet.errors import UserError
from ldarnet.genome.bed import read_bed
from ldarnet.genome.gff import is_gff, read_gff
from ldarnet.genome.sources import text_lines
from ldarnet.genomics.browser.features import parse_region
from ldarnet.printable import printable

MITOCHONDRIA = ("chrM", "MT", "chrMT", "M", "Mito", "chrMito")
"""Names of mitochondrial contigs that are taken as the same."""


@dataclass(frozen=True, slots=True)
class DrawnGene:
    """A transcript, a gene without transcripts, or an interval.

    Attributes:
        start: first base, 0-based.
        end: position after the last base.
        strand: ``+``, ``-`` or ``.``.
        name: name; may be empty.
        exons: start and end of each exon, in order.
        coding: start and end of the coding sequence; None without one.
    """

    start: int
    end: int
    strand: str
    name: str
    exons: list[tuple[int, int]] = field(default_factory=list)
    coding: tuple[int, int] | None = None


class GeneTrack:
    """Genes by contig.

    Attributes:
        count: number of features on contigs of the genome.
        skipped: name of a contig that is not in the genome -> number of its features.
    """

    def __init__(self, path: Path, contigs: Collection[str], rename: Mapping[str, str] | None = None) -> None:
        """Read a file; contig names with and without ``chr`` are taken as the same.

        Args:
            path: GFF3 or BED file, plain or compressed.
            contigs: contigs of the genome.
            rename: name in the file -> name to use instead.

        Raises:
            UserError: the file cannot be read, or has no feature on a contig of the genome.
        """
        self._genes = defaultdict[str, list[DrawnGene]](list)
        self.skipped = Counter[str]()
        for contig, gene in _read_genes(path) if is_gff(path) else _read_intervals(path):
            name = _contig_name((rename or {}).get(contig, contig), contigs)
            if name is None:
                self.skipped[contig] += 1
            else:
                self._genes[name].append(gene)
        if not self._genes:
            known = ", ".join(map(printable, list(self.skipped)[:3]))
            raise UserError(
                f"{path}: no contig of the genome (this file has {known}); map its names to those of the genome with "
                "--rename"
                if self.skipped
                else f"{path}: no genes; choose a GFF3 file with genes and exons, or a BED file"
            )
        for genes in self._genes.values():
            genes.sort(key=lambda gene: gene.start)
        self._longest = {name: max(gene.end - gene.start for gene in genes) for name, genes in self._genes.items()}
        self.count = sum(map(len, self._genes.values()))

    def first(self, contigs: Collection[str]) -> tuple[str, int, int]:
        """Contig, start and end of the first gene of the first annotated contig."""
        contig = next(name for name in contigs if name in self._genes)
        gene = self._genes[contig][0]
        return contig, gene.start, gene.end

    def query(self, parameters: dict[str, str]) -> list[dict[str, Any]]:
        """Features that overlap a region, with the keys of igv.js."""
        contig, start, end = parse_region(parameters)
        genes = self._genes.get(contig, [])
        first = bisect_left(genes, start - self._longest.get(contig, 0), key=lambda gene: gene.start)
        last = bisect_left(genes, end, key=lambda gene: gene.start)
        return [_drawn(gene) for gene in genes[first:last] if gene.end > start]


def _drawn(gene: DrawnGene) -> dict[str, Any]:
    drawn: dict[str, Any] = {"start": gene.start, "end": gene.end, "strand": gene.strand, "name": gene.name}
    if not gene.exons:
        return drawn
    low, high = gene.coding or (gene.end, gene.end)
    drawn["exons"] = [
        {"start": start, "end": end, "utr": end <= low or start >= high}
        | ({"cdStart": max(start, low), "cdEnd": min(end, high)} if end > low and start < high else {})
        for start, end in gene.exons
    ]
    return drawn | ({} if gene.coding is None else {"cdStart": low, "cdEnd": high})


def _contig_name(name: str, contigs: Collection[str]) -> str | None:
    """Contig of the genome with this name, or with the same name with or without ``chr``; None if there is none."""
    same = MITOCHONDRIA if name in MITOCHONDRIA else (f"chr{name}", name.removeprefix("chr"))
    return next((other for other in (name, *same) if other in contigs), None)


def _read_intervals(path: Path) -> Iterator[tuple[str, DrawnGene]]:
    lines = enumerate(text_lines(path), start=1)
    for interval in read_bed(path):
        columns = next(line for number, line in lines if number == interval.line).split("\t")
        name, strand = columns[3] if len(columns) > 3 else "", columns[5] if len(columns) > 5 else "."
        yield interval.contig, DrawnGene(interval.start, interval.end, strand, printable(name))


@dataclass(slots=True)
class _Node:
    """A line of a GFF3 file with an ID."""

    contig: str
    gene: DrawnGene
    kind: str
    parent: str
    drawn: bool = False


def _read_genes(path: Path) -> Iterator[tuple[str, DrawnGene]]:
    """Yield transcripts, each named after its gene; and genes without transcripts."""
    nodes = dict[str, _Node]()
    exons, coding = defaultdict[str, list[tuple[int, int]]](list), defaultdict[str, list[tuple[int, int]]](list)
    where = dict[str, tuple[str, str]]()
    lines = (line.split("\t") for line in text_lines(path) if line.strip() and not line.startswith("#"))
    for feature, columns in zip(read_gff(path), lines, strict=False):
        attributes = _attributes(columns[8])
        parents = [unquote(parent) for parent in attributes.get("Parent", "").split(",") if parent]
        parts = {"exon": exons, "CDS": coding}.get(feature.name)
        if parts is not None:
            for parent in parents:
                parts[parent].append((feature.start, feature.end))
                where.setdefault(parent, (feature.contig, columns[6]))
        elif identifier := unquote(attributes.get("ID", "")):
            name = unquote(attributes.get("Name", "")) or identifier.rpartition(":")[2]
            gene = DrawnGene(feature.start, feature.end, columns[6], printable(name))
            nodes[identifier] = _Node(feature.contig, gene, feature.name, parents[0] if parents else "")
    for identifier, (contig, strand) in where.items():
        node = nodes.get(identifier)
        parent = nodes.get(node.parent) if node else None
        for shown in (node, parent):
            if shown is not None:
                shown.drawn = True
        blocks = sorted(exons.get(identifier) or coding[identifier])
        inside = coding.get(identifier)
        named = parent or node
        yield (
            contig,
            DrawnGene(
                min(start for start, _ in blocks),
                max(end for _, end in blocks),
                strand,
                named.gene.name if named else printable(identifier),
                blocks,
                (min(start for start, _ in inside), max(end for _, end in inside)) if inside else None,
            ),
        )
    for node in nodes.values():
        if not node.drawn and node.kind.endswith("gene"):
            yield node.contig, node.gene


def _attributes(column: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in column.strip().split(";"))
    return {name.strip(): value for name, _, value in pairs}
