"""Gene track of boundary figures."""

import numpy as np
from matplotlib.figure import Figure

from ldarnet.genome.annotation import Transcript
from ldarnet.interpret.boundaries import draw_boundaries
from ldarnet.interpret.figures import styled_figure
from ldarnet.interpret.genes import MAX_ROWS, gene_rows

GENE = Transcript.of("c", "-", [(1010, 1030), (1050, 1080)], [(1020, 1030), (1050, 1070)], "ACT1")


def test_transcripts_that_overlap_are_in_different_rows():
    others = [
        GENE,
        Transcript.of("c", "+", [(1080, 1090)], [], "next"),
        Transcript.of("c", "+", [(1020, 1085)], [], "over"),
        Transcript.of("c", "+", [(0, 1000)], [], "before"),
        Transcript.of("d", "+", [(1010, 1020)], [], "elsewhere"),
    ]
    rows = gene_rows([GENE, *others], "c", 1000, 1100)
    assert [[gene.name for gene in row] for row in rows] == [["ACT1", "next"], ["over"]]
    many = [Transcript.of("c", "+", [(1000, 1050 + n)], []) for n in range(9)]
    assert len(gene_rows(many, "c", 1000, 1100)) == MAX_ROWS


def test_a_boundary_figure_has_genes_and_the_marked_feature():
    mask, rows = np.arange(200) % 5 == 0, gene_rows([GENE], "c", 1000, 1200)
    with styled_figure(11, 6) as figure:
        draw_boundaries(figure, "ACGT" * 50, [(mask * 0.9, mask)], 1000, genes=rows, locus=1100)
    first, _, _, genes, _ = figure.axes
    assert genes.get_title("left") == "Genes"
    assert [text.get_text() for text in genes.texts] == ["ACT1 ←"]
    boxes = [path.get_extents() for part in genes.collections for path in part.get_paths()]
    shown = [(box.x0 - 0.5, box.x1 - 0.5) for box in boxes]
    assert shown == [(1010, 1030), (1050, 1080), (1020, 1030), (1050, 1070)]
    labels = [text.get_text() for text in genes.get_legend().get_texts()]
    assert labels[:2] == ["coding", "exon, not coding"]
    assert "the feature" in [text.get_text() for text in first.get_legend().get_texts()]
    assert "1,100" in [label.get_text() for label in first.get_xticklabels()]
    assert genes.lines[-1].get_xdata()[0] == 1100.5


def test_a_region_without_genes_says_so():
    figure, mask = Figure(), np.arange(90) % 5 == 0
    draw_boundaries(figure, "ACG" * 30, [(mask * 0.9, mask)], 0, genes=[])
    assert [text.get_text() for axes in figure.axes for text in axes.texts if len(text.get_text()) > 1] == [
        "no annotated gene here"
    ]
