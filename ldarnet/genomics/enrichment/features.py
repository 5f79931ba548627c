"""Features of annotations: where boundaries are compared with null models.

A feature kind of gene annotations is a function in `GENE_FEATURES`; each BED file is a kind of its own. A locus is a
position between two bases, in the direction of its strand: the boundary before base `start` on the forward strand, and
the boundary before base `end` for features on the reverse strand. Both are at the 5' end of the feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldarnet.errors import UserError
from ldarnet.genome.annotation import Strand, Transcript, read_annotation, transcripts_of
from ldarnet.genomics.enrichment.landscape import GAP, Landscape
from ldarnet.genomics.genome import Genome
from ldarnet.genomics.regions import name_hint
from ldarnet.printable import printable

MAX_ELEMENT = 100
"""Longest interval, in bases, that counts as an element; of longer ones, only the 5' end is used."""

Place = tuple[str, int, int, Strand]
"""Contig, start, end and strand; start equals end for a position between two bases."""


@dataclass(frozen=True, eq=False)
class Loci:
    """Loci of a kind, on the axis of a `Landscape`.

    Attributes:
        name: kind.
        anchor: (N,) int64, position at the 5' end.
        sign: (N,) 1 for the forward strand and features without strand, -1 for the reverse strand.
        low: (N,) first position of the window whose boundaries are compared.
        width: (N,) number of positions of this window.
        elements: whether windows are whole elements rather than the surroundings of positions.
        skipped: number of features that were not used: outside of the selected regions, near their ends, duplicates,
            or above the maximum number.
    """

    name: str
    anchor: np.ndarray
    sign: np.ndarray
    low: np.ndarray
    width: np.ndarray
    elements: bool
    skipped: int

    def __len__(self) -> int:
        """Number of loci."""
        return len(self.anchor)


def _five_prime(contig: str, start: int, end: int, strand: Strand) -> Place:
    at = end if strand == "-" else start
    return contig, at, at, strand


def _tss(transcript: Transcript) -> list[Place]:
    exons = transcript.exons
    return [_five_prime(transcript.contig, exons[0][0], exons[-1][1], transcript.strand)] if exons else []


def _tes(transcript: Transcript) -> list[Place]:
    if not transcript.exons:
        return []
    at = transcript.exons[0][0] if transcript.strand == "-" else transcript.exons[-1][1]
    return [(transcript.contig, at, at, transcript.strand)]


def _start_codons(transcript: Transcript) -> list[Place]:
    coding = transcript.coding
    return [_five_prime(transcript.contig, coding[0][0], coding[-1][1], transcript.strand)] if coding else []


def _stop_codons(transcript: Transcript) -> list[Place]:
    if not transcript.coding:
        return []
    at = transcript.coding[0][0] if transcript.strand == "-" else transcript.coding[-1][1]
    return [(transcript.contig, at, at, transcript.strand)]


def _donors(transcript: Transcript) -> list[Place]:
    return [_five_prime(transcript.contig, start, end, transcript.strand) for start, end in transcript.introns]


def _acceptors(transcript: Transcript) -> list[Place]:
    at = [start if transcript.strand == "-" else end for start, end in transcript.introns]
    return [(transcript.contig, position, position, transcript.strand) for position in at]


GENE_FEATURES: dict[str, tuple[str, Callable[[Transcript], list[Place]]]] = {
    "tss": ("5' end of a transcript", _tss),
    "start_codon": ("5' end of the first codon", _start_codons),
    "splice_donor": ("5' end of an intron", _donors),
    "splice_acceptor": ("3' end of an intron", _acceptors),
    "stop_codon": ("3' end of the last codon", _stop_codons),
    "transcript_end": ("3' end of a transcript", _tes),
}
"""Kind -> what it is, and its places on a transcript."""


@dataclass(frozen=True)
class Annotation:
    """Contents of an annotation file.

    Attributes:
        path: path of the file.
        places: kind -> places; empty for kinds that the file does not have.
        transcripts: transcripts of a GFF3 or GTF file.
        contigs: names of its contigs.
    """

    path: Path
    places: Mapping[str, Sequence[Place]]
    transcripts: Sequence[Transcript]
    contigs: frozenset[str]


def load_annotation(path: Path, name: str = "") -> Annotation:
    """Read an annotation: the kinds of `GENE_FEATURES` from GFF3 or GTF, one kind from BED.

    Args:
        path: path of the file.
        name: name of the kind, for BED files; by default, the name of the file.

    Raises:
        UserError: the file cannot be read, or a GFF3 file has no exons and no coding segments.
    """
    gff, lines = read_annotation(path)
    if not gff:
        rows = list(lines)
        places: list[Place] = [(row.contig, row.start, row.end, row.strand) for row in rows]
        kind = name or path.name.partition(".")[0]
        return Annotation(path, {kind: places}, [], frozenset(row.contig for row in rows))
    transcripts = [found for found in transcripts_of(lines) if found.exons or found.coding]
    if not transcripts:
        raise UserError(
            f"{path}: no exon or CDS with a parent transcript; choose an annotation of genes, or a BED file"
        )
    kinds = {
        kind: [place for transcript in transcripts for place in find(transcript)]
        for kind, (_, find) in GENE_FEATURES.items()
    }
    return Annotation(path, kinds, transcripts, frozenset(transcript.contig for transcript in transcripts))


def check_contigs(annotation: Annotation, genome: Genome) -> None:
    """Check that an annotation has a contig of the genome.

    Raises:
        UserError: it has none.
    """
    if not annotation.contigs & genome.sizes.keys():
        contig = min(annotation.contigs)
        raise UserError(
            f"{annotation.path}: no contig {printable(contig)} in {genome.path}; {name_hint(contig, genome)}"
        )
    for places in annotation.places.values():
        for contig, _, end, _ in places:
            if end > genome.sizes.get(contig, end):
                raise UserError(
                    f"{annotation.path}: {printable(contig)}:{end:,} extends beyond the end of the contig "
                    f"({genome.sizes[contig]:,} bases) in {genome.path}; is it of another assembly?"
                )


def place_loci(
    name: str, places: Sequence[Place], landscape: Landscape, *, radius: int, flank: int, maximum: int, seed: int
) -> Loci:
    """Place features on the axis of a landscape.

    The window of an element (at most `MAX_ELEMENT` bases) is all boundaries from its first to its last edge; that of
    another feature is the boundaries up to ``radius`` bases from its 5' end. If only some intervals of a kind are
    longer than an element, all are compared at their 5' ends.

    Args:
        name: kind.
        places: the features.
        landscape: the axis.
        radius: bases on both sides of a position.
        flank: bases on both sides that must be in the selected regions too; at most `GAP`.
        maximum: maximum number of loci; others are dropped at random.
        seed: seed of this selection.
    """
    assert max(radius, flank) <= GAP
    unique = sorted(set(places))
    start, end = (np.array([place[column] for place in unique], np.int64) for column in (1, 2))
    reverse = np.array([place[3] == "-" for place in unique])
    elements = bool(len(unique)) and bool(((end > start) & (end - start <= MAX_ELEMENT)).all())
    at = np.full(len(unique), -1, np.int64)
    contigs = np.array([place[0] for place in unique])
    for contig in sorted(set(contigs.tolist())):
        rows = contigs == contig
        at[rows] = landscape.locate(contig, start[rows] - flank, end[rows] + flank + 1)
    chosen = np.flatnonzero(at >= 0)
    shift = at + flank
    low, width = (
        (shift, end - start + 1)
        if elements
        else (_anchor(shift, start, end, reverse) - radius, end * 0 + 2 * radius + 1)
    )
    known = np.cumsum(np.append(0, landscape.known))
    chosen = chosen[known[low[chosen] + width[chosen]] - known[low[chosen]] == width[chosen]]
    if len(chosen) > maximum:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, maximum, replace=False))
    anchor = _anchor(shift, start, end, reverse)
    return Loci(
        name,
        anchor[chosen],
        np.where(reverse, -1, 1)[chosen],
        low[chosen],
        width[chosen],
        elements,
        len(places) - len(chosen),
    )


def _anchor(shift: np.ndarray, start: np.ndarray, end: np.ndarray, reverse: np.ndarray) -> np.ndarray:
    return np.where(reverse, shift + end - start, shift)
