"""Sequence logos at boundaries, at features and of motifs.

Shapes: N positions, w bases of a logo.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ldarnet import alphabet
from ldarnet.genomics.enrichment.landscape import Landscape
from ldarnet.genomics.enrichment.results import StudyResults
from ldarnet.interpret.boundaries import BASE_COLORS, LOCUS
from ldarnet.interpret.figures import INK
from ldarnet.printable import figure_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REACH = 10
"""Bases on both sides of a position."""
MAX_POSITIONS = 50_000
MIN_BITS = 0.1
"""Minimum upper end of the y axis."""
COLUMNS = 3
LETTERS = alphabet.NUCLEOTIDES[: alphabet.N]


def base_counts(landscape: Landscape, anchor: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Numbers of A, C, G and T around positions, in the direction of their strands, (2 * `REACH`, 4)."""
    offsets = np.arange(-REACH, REACH)
    at = np.where(sign[:, None] > 0, anchor[:, None] + offsets, anchor[:, None] - 1 - offsets)
    ids = landscape.ids[np.clip(at, 0, len(landscape.ids) - 1)]
    ids = np.where((sign[:, None] < 0) & (ids < alphabet.N), alphabet.N - 1 - ids, ids)
    return np.stack([(ids == base).sum(axis=0) for base in range(alphabet.N)], axis=1)


def boundary_positions(results: StudyResults) -> np.ndarray:
    """Positions of boundaries, at most `MAX_POSITIONS` at random, (N,)."""
    at = np.flatnonzero(results.context.landscape.boundary)
    rng = results.context.rng("logo")
    return at if len(at) <= MAX_POSITIONS else np.sort(rng.choice(at, MAX_POSITIONS, replace=False))


def background(landscape: Landscape) -> np.ndarray:
    """Composition of the regions, equal on both strands, (4,)."""
    counts = np.bincount(landscape.ids, minlength=alphabet.N)[: alphabet.N] + 1.0
    return (counts + counts[::-1]) / (2 * counts.sum())


def draw_logo(axes: Axes, probability: np.ndarray, background: np.ndarray, *, first: int | None) -> None:
    """Draw information content against the composition of the regions.

    Args:
        axes: empty axes.
        probability: probabilities of A, C, G and T, above 0, (w, 4).
        background: composition, (4,).
        first: offset of the first base, to mark the boundary between -1 and 0; None for motifs.
    """
    import logomaker
    import pandas as pd

    bits = probability * (probability * np.log2(probability / background)).sum(axis=1, keepdims=True)
    positions = np.arange(len(bits)) + (first or 0)
    frame = pd.DataFrame(bits, index=positions, columns=list(LETTERS))
    logomaker.Logo(frame, ax=axes, color_scheme={base: BASE_COLORS[base] for base in LETTERS})
    axes.set_ylim(0, max(MIN_BITS, 1.1 * float(bits.sum(axis=1).max())))
    axes.set_ylabel("bits")
    if first is not None:
        axes.axvline(-0.5, color=LOCUS, linewidth=1.0)
        axes.set_xlabel("bases from the position")
        axes.set_xticks(range(first, first + len(bits) + 1, 5))


def _shares(counts: np.ndarray) -> np.ndarray:
    """Probabilities from counts, with a pseudocount of one per base."""
    return (counts + 1) / (counts.sum(axis=1, keepdims=True) + alphabet.N)


def draw_boundary_logo(figure: Figure, results: StudyResults) -> str | None:
    """Draw the bases around the boundaries of the forward strand."""
    at = boundary_positions(results)
    if not len(at):
        return "the regions have no boundaries"
    landscape = results.context.landscape
    counts = base_counts(landscape, at, np.ones(len(at), np.int64))
    draw_logo(figure.subplots(), _shares(counts), background(landscape), first=-REACH)
    return None


def draw_feature_logos(figure: Figure, results: StudyResults) -> str | None:
    """Draw the bases around the loci of each kind, in the direction of the strand."""
    landscape = results.context.landscape
    grid = _grid(figure, len(results.kinds))
    for loci, axes in zip(results.kinds, grid, strict=False):
        counts = base_counts(landscape, loci.anchor, loci.sign)
        draw_logo(axes, _shares(counts), background(landscape), first=-REACH)
        axes.set_title(f"{figure_label(loci.name)} (n = {len(loci):,})", color=INK)
    return None


def draw_motif_logos(figure: Figure, results: StudyResults) -> str | None:
    """Draw the motifs themselves."""
    if not results.motifs:
        return "no --motifs"
    for motif, axes in zip(results.motifs, _grid(figure, len(results.motifs)), strict=False):
        draw_logo(axes, motif.probability, background(results.context.landscape), first=None)
        axes.set_title(figure_label(motif.name), color=INK)
        axes.set_xticks([])
    return None


def _grid(figure: Figure, count: int) -> list[Axes]:
    """Axes of several logos; a single one spans the figure."""
    columns = min(COLUMNS, count)
    panels = figure.subplots(logo_rows(count), columns, squeeze=False).ravel()
    for axes in panels[count:]:
        axes.set_axis_off()
    return list(panels[:count])


def logo_rows(count: int) -> int:
    """Rows of a figure of several logos."""
    return math.ceil(count / COLUMNS)
