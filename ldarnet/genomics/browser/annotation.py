"""Genes of a GFF3 or GTF file, or intervals of a BED file, as features of the browser."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ldarnet.errors import UserError
from ldarnet.genome.annotation import Transcript, read_annotation, transcripts_of
from ldarnet.genomics.browser.features import parse_region
from ldarnet.printable import printable

MITOCHONDRIA = ("chrM", "MT", "chrMT", "M", "Mito", "chrMito")
"""Names of mitochondrial contigs that are taken as the same."""


class GeneTrack:
    """Genes by contig.

    Attributes:
        count: number of features on contigs of the genome.
        skipped: name of a contig that is not in the genome -> number of its features.
    """

    def __init__(self, path: Path, contigs: Collection[str], rename: Mapping[str, str] | None = None) -> None:
        """Read a file; contig names with and without ``chr`` are taken as the same.

        Args:
            path: GFF3, GTF or BED file, plain or compressed.
            contigs: contigs of the genome.
            rename: name in the file -> name to use instead.

        Raises:
            UserError: the file cannot be read, or has no feature on a contig of the genome.
        """
        self._genes = defaultdict[str, list[Transcript]](list)
        self.skipped = Counter[str]()
        for gene in _read_genes(path):
            name = _contig_name((rename or {}).get(gene.contig, gene.contig), contigs)
            if name is None:
                self.skipped[gene.contig] += 1
            else:
                self._genes[name].append(gene)
        if not self._genes:
            known = ", ".join(map(printable, list(self.skipped)[:3]))
            raise UserError(
                f"{path}: no contig of the genome (this file has {known}); map its names to those of the genome with "
                "--rename"
                if self.skipped
                else f"{path}: no genes; choose a GFF3 or GTF file with genes and exons, or a BED file"
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


def _drawn(gene: Transcript) -> dict[str, Any]:
    drawn: dict[str, Any] = {
        "start": gene.start,
        "end": gene.end,
        "strand": gene.strand,
        "name": printable(gene.name),
    }
    exons = gene.exons or gene.coding
    if not exons:
        return drawn
    low, high = (gene.coding[0][0], max(end for _, end in gene.coding)) if gene.coding else (gene.end, gene.end)
    drawn["exons"] = [
        {"start": start, "end": end, "utr": end <= low or start >= high}
        | ({"cdStart": max(start, low), "cdEnd": min(end, high)} if end > low and start < high else {})
        for start, end in exons
    ]
    return drawn | ({"cdStart": low, "cdEnd": high} if gene.coding else {})


def _read_genes(path: Path) -> Iterator[Transcript]:
    gff, lines = read_annotation(path)
    if gff:
        yield from transcripts_of(lines)
    else:
        yield from (Transcript(row.contig, row.start, row.end, row.strand, row.name, [], []) for row in lines)


def _contig_name(name: str, contigs: Collection[str]) -> str | None:
    """Contig of the genome with this name, or with the same name with or without ``chr``; None if there is none."""
    same = MITOCHONDRIA if name in MITOCHONDRIA else (f"chr{name}", name.removeprefix("chr"))
    return next((other for other in (name, *same) if other in contigs), None)
