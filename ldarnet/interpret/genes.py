"""Gene track of boundary figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ldarnet.genome.annotation import Transcript
from ldarnet.interpret.figures import INK, MUTED
from ldarnet.printable import figure_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CODING, NONCODING = "#3b5b7a", "#9fb4c8"
MAX_ROWS = 4
"""Transcripts that overlap each other are drawn in different rows; further ones are not drawn."""
THICK, THIN = 0.56, 0.3
"""Heights of coding and of noncoding parts, in rows."""
ARROWS = 40
"""Arrows along the width of the track."""


def gene_rows(transcripts: Sequence[Transcript], contig: str, start: int, end: int) -> list[list[Transcript]]:
    """Transcripts that overlap an interval, in at most `MAX_ROWS` rows without overlaps; equal ones only once."""
    found = {
        (gene.start, gene.end, gene.strand, tuple(gene.exons), tuple(gene.coding)): gene
        for gene in transcripts
        if gene.contig == contig and gene.start < end and gene.end > start
    }
    rows: list[list[Transcript]] = []
    for gene in sorted(found.values(), key=lambda gene: (gene.start, -gene.end)):
        row = next((row for row in rows if row[-1].end <= gene.start), None)
        if row is not None:
            row.append(gene)
        elif len(rows) < MAX_ROWS:
            rows.append([gene])
    return rows


def draw_genes(axes: Axes, rows: Sequence[Sequence[Transcript]], start: int, end: int) -> None:
    """Draw transcripts: lines with arrows in the direction of the strand, and boxes for exons, higher where they code.

    Args:
        axes: empty axes; x is the 1-based position.
        rows: see `gene_rows`.
        start: first base shown, 0-based.
        end: position after the last base shown.
    """
    for row, genes in enumerate(rows):
        for gene in genes:
            _draw_gene(axes, gene, -row, start, end)
    axes.set_xlim(start + 0.5, end + 0.5)
    axes.set_ylim(-max(len(rows), 1) + 0.4, 1.0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.set_title("Genes")
    if rows:
        _legend(axes)
    else:
        axes.text((start + end) / 2, 0, "no annotated gene here", ha="center", va="center", color=MUTED)


def _draw_gene(axes: Axes, gene: Transcript, y: float, start: int, end: int) -> None:
    low, high = max(gene.start, start), min(gene.end, end)
    axes.plot([low + 0.5, high + 0.5], [y, y], color=MUTED, linewidth=1.0, zorder=1)
    if gene.strand != ".":
        step = max((end - start) // ARROWS, 1)
        at = range(low + step // 2, high, step)
        marker = ">" if gene.strand == "+" else "<"
        axes.plot([x + 0.5 for x in at], [y] * len(at), marker, color=MUTED, markersize=2.5, zorder=1)
    noncoding = gene.exons or ([] if gene.coding else [(gene.start, gene.end)])
    for parts, height, color in ((noncoding, THIN, NONCODING), (gene.coding, THICK, CODING)):
        shown = [(max(first, start), min(last, end)) for first, last in parts if first < end and last > start]
        boxes = [(first + 0.5, last - first) for first, last in shown]
        axes.broken_barh(boxes, (y - height / 2, height), facecolors=color, zorder=2)
    arrow = {"+": "→", "-": "←"}.get(gene.strand, "")
    axes.text(low + 0.5, y + 0.36, f"{figure_label(gene.name)} {arrow}", ha="left", va="bottom", fontsize=8, color=INK)


def _legend(axes: Axes) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    axes.legend(
        handles=[
            Patch(color=CODING, label="coding"),
            Patch(color=NONCODING, label="exon, not coding"),
            Line2D([], [], color=MUTED, marker=">", markersize=3, label="intron; arrows: direction of the gene"),
        ],
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=3,
        borderaxespad=0.1,
        handlelength=1.2,
    )
