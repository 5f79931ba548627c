"""Views of single loci: bases, chunks, boundary probability and genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ldarnet import alphabet
from ldarnet.genomics.enrichment.features import Loci
from ldarnet.genomics.enrichment.results import StudyResults
from ldarnet.interpret.boundaries import boundaries_height, draw_boundaries
from ldarnet.interpret.genes import gene_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REACH = 300
"""Bases on both sides of a locus."""


@dataclass(frozen=True)
class LocusView:
    """A locus and its surroundings.

    Attributes:
        contig: name of the contig.
        start: first base shown, 0-based.
        end: position after the last base shown.
        locus: position of the feature.
        strand: its strand, 1 or -1.
        offset: position of ``start`` on the axis of the landscape.
    """

    contig: str
    start: int
    end: int
    locus: int
    strand: int
    offset: int


def random_view(results: StudyResults, loci: Loci) -> LocusView:
    """View of a locus that is chosen at random, and not by its boundaries."""
    landscape = results.context.landscape
    chosen = int(results.context.rng("view", loci.name).integers(len(loci)))
    anchor = int(loci.anchor[chosen])
    row = int(np.searchsorted(landscape.offsets, anchor, side="right")) - 1
    offset, length, first = (int(v[row]) for v in (landscape.offsets, landscape.lengths, landscape.starts))
    low, high = max(anchor - REACH, offset), min(anchor + REACH, offset + length)
    shift = first - offset
    return LocusView(landscape.contigs[row], low + shift, high + shift, anchor + shift, int(loci.sign[chosen]), low)


def view_height(results: StudyResults, view: LocusView) -> float:
    """Height of the figure in inches."""
    genes = gene_rows(results.transcripts, view.contig, view.start, view.end)
    return boundaries_height(view.end - view.start, max(len(genes), 1) if results.transcripts else 0)


def draw_view(figure: Figure, results: StudyResults, view: LocusView) -> str | None:
    """Draw a locus; the gene track is missing without an annotation of genes."""
    landscape = results.context.landscape
    cut = slice(view.offset, view.offset + view.end - view.start)
    bases = alphabet.decode(np.minimum(landscape.ids[cut], alphabet.N))
    track = (np.nan_to_num(landscape.probability[cut]), landscape.boundary[cut])
    genes = gene_rows(results.transcripts, view.contig, view.start, view.end) if results.transcripts else None
    draw_boundaries(figure, bases, [track], view.start, genes=genes, locus=view.locus)
    return None
