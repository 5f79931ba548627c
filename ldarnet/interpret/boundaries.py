"""Compute and plot the chunk boundaries of a model along sequences."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ldarnet import alphabet
from ldarnet.errors import UserError
from ldarnet.genome.annotation import Transcript
from ldarnet.interpret.figures import FAINT, INK, MUTED, STAGE_COLORS, png_figure
from ldarnet.interpret.genes import draw_genes
from ldarnet.model import LDARNetLanguageModel, LDARNetModel
from ldarnet.model.chunking.selection import THRESHOLD
from ldarnet.printable import figure_label
from ldarnet.tokenization import tokenization_or_bases

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASE_COLORS: dict[str, str] = dict(
    zip(alphabet.NUCLEOTIDES, ("#2c8a4b", "#2b6cb0", "#c77d0a", "#c0392b", "#8a94a0"), strict=True)
)
CHUNK_FILLS = ("#dfeaf5", "#f8e9dc")
"""Alternating fill colors of chunks."""
OTHER_BAR = "#b9c3cd"
"""Color of probability bars inside a chunk."""
ROW_BASES = 60
"""Bases per row of the figure."""
ROWS = 2
"""Maximum number of rows of bases."""
GENE_HEIGHT = 0.42
"""Height of a row of the gene track, in inches."""
LOCUS = "#b5446e"
"""Color of the mark of a feature."""
MAX_LENGTH = 16
"""Chunk length of the last histogram bin, in bases; this bin also counts longer chunks."""
BAR_FOOT, BAR_HEIGHT = 1.22, 1.15
"""Bottom of the probability bars, and height of a bar at probability 1, in y units; a row of bases spans 0 to 1."""

Track = tuple[np.ndarray, np.ndarray]


def boundary_track(
    model: LDARNetModel | LDARNetLanguageModel, ids: np.ndarray, given: np.ndarray | None = None
) -> list[Track]:
    """Compute the boundary probabilities and the boundary mask of each stage along a sequence.

    The model runs on its own device, in evaluation mode and without gradients. Its previous mode is restored.

    Args:
        model: the model; without routers, the result is an empty list.
        ids: token ids, (L,) of any integer type, L >= 1, without padding.
        given: argument ``boundaries`` of the model, (L,) bool; None if the model finds its boundaries.

    Returns:
        One pair for each stage with a router, outermost first: probabilities, (L,) float32, and mask, (L,) bool. An
        inner stage only has positions at the boundaries of the previous stage; at all other positions, its probability
        is 0 and its mask is False.

    Raises:
        UserError: `ids` is empty or has more than one dimension.
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or not len(ids):
        raise UserError(f"ids have shape {ids.shape}; pass one sequence of at least one base, shape (L,)")
    tracks = boundary_tracks(model, ids[None], None if given is None else given[None])
    return [(probability[0], mask[0]) for probability, mask in tracks]


def boundary_tracks(
    model: LDARNetModel | LDARNetLanguageModel,
    ids_WL: np.ndarray,
    given_WL: np.ndarray | None = None,
    *,
    batch: int = 32,
) -> list[Track]:
    """Compute the boundary probabilities and the boundary masks of each stage in W windows of L bases.

    Args:
        model: see `boundary_track`.
        ids_WL: token ids without padding, W >= 1.
        given_WL: see `boundary_track`.
        batch: windows per forward pass.

    Returns:
        See `boundary_track`; the arrays have shape (W, L).
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            rows = [slice(start, start + batch) for start in range(0, len(ids_WL), batch)]
            parts = [_batch_tracks(model, ids_WL[row], None if given_WL is None else given_WL[row]) for row in rows]
    finally:
        model.train(was_training)
    by_stage = (zip(*stage, strict=True) for stage in zip(*parts, strict=True))
    return [(np.concatenate(probabilities), np.concatenate(masks)) for probabilities, masks in by_stage]


def _batch_tracks(
    model: LDARNetModel | LDARNetLanguageModel, ids_BL: np.ndarray, given_BL: np.ndarray | None
) -> list[Track]:
    given = {} if given_BL is None else {"boundaries": torch.from_numpy(given_BL)}
    output = model(torch.from_numpy(ids_BL.astype(np.int64)).to(model.device), **given)
    tracks, at_BL = [], np.ones(ids_BL.shape, bool)
    for stage in output.boundaries:
        probability, mask = np.zeros(ids_BL.shape, np.float32), np.zeros(ids_BL.shape, bool)
        real = np.arange(stage.mask.shape[1]) < at_BL.sum(1, keepdims=True)
        probability[at_BL] = stage.probability.float().cpu().numpy()[real]
        mask[at_BL] = stage.mask.cpu().numpy()[real]
        tracks.append((probability, mask))
        at_BL = mask
    return tracks


def chunk_lengths(mask: np.ndarray) -> np.ndarray:
    """Compute the length of each chunk in bases; the last chunk ends at the end of the mask.

    Args:
        mask: chunk starts, (L,) bool.

    Returns:
        Chunk lengths, (chunks,).
    """
    return np.diff(np.append(np.flatnonzero(mask), len(mask)))


def token_spans(model: LDARNetModel, sequence: str, window: int = 4096) -> Iterator[tuple[int, int]]:
    """Split a sequence into the tokens that a model reads.

    Args:
        model: a model that reads tokens of several bases.
        sequence: nucleotide codes.
        window: number of bases to encode at once; tokens never span two windows.

    Yields:
        Start and end of each token, 0-based and half-open.
    """
    tokenizer = tokenization_or_bases(model.config.tokenizer)
    assert tokenizer is not None
    for offset in range(0, len(sequence), window):
        lengths = tokenizer.encoded_lengths(alphabet.encode(sequence[offset : offset + window]))
        yield from pairwise([offset, *(offset + lengths.cumsum()).tolist()])


def boundary_figure(
    model: LDARNetModel | LDARNetLanguageModel,
    ids: np.ndarray,
    contig: str,
    start: int,
    out_png: str | os.PathLike[str],
    *,
    title: str = "Learned boundaries",
    given: np.ndarray | None = None,
) -> None:
    """Plot the chunks of a sequence.

    The panels show the first bases with their chunks, the boundary probability along the whole sequence, and a
    histogram of chunk lengths.

    Args:
        model: a model with at least two stages.
        ids: token ids, (L,); the figure is most readable for one or two kilobases.
        contig: name of the contig, shown in the figure.
        start: 0-based start on the contig; the figure shows 1-based positions, as genome browsers do.
        out_png: PNG file to write.
        title: heading of the figure.
        given: see `boundary_track`.

    Raises:
        UserError: `ids` is not a single sequence, the model has only one stage, or the disk is full.
    """
    tracks = boundary_track(model, ids, given)
    if not tracks:
        raise UserError("this model has a single stage and no chunks; use a model with at least two stages")
    bases = alphabet.decode(np.minimum(ids, alphabet.N))
    with png_figure(out_png, 11.0, boundaries_height(len(bases))) as figure:
        location = f"{figure_label(contig)}:{start + 1:,}–{start + len(bases):,}"  # noqa: RUF001
        figure.suptitle(f"{figure_label(title)}   ", x=0.012, ha="left", fontsize=13, fontweight="bold")
        figure.text(0.988, 0.985, location, ha="right", va="top", color=MUTED, fontsize=10)
        draw_boundaries(figure, bases, tracks, start)


def boundaries_height(bases: int, genes: int = 0) -> float:
    """Height in inches, including the heading, of a boundary figure that is 11 inches wide.

    Args:
        bases: length of the sequence.
        genes: rows of the gene track; 0 without one.
    """
    return 2.9 + 1.55 * _rows(bases) + (GENE_HEIGHT * (genes + 1) if genes else 0)


def _rows(bases: int) -> int:
    return min(ROWS, -(-bases // ROW_BASES))


def draw_boundaries(
    figure: Figure,
    bases: str,
    tracks: list[Track],
    start: int,
    *,
    genes: Sequence[Sequence[Transcript]] | None = None,
    locus: int | None = None,
) -> None:
    """Draw the panels of `boundary_figure` from precomputed tracks.

    Args:
        figure: an empty figure.
        bases: nucleotide codes, a string of length L.
        tracks: probability and boundary mask of each stage, as returned by `boundary_track`; at least one stage.
        start: 0-based start on the contig.
        genes: rows of the gene track, see `gene_rows`; None to omit the track.
        locus: position on the contig to mark, between the bases before and at it; it is in the middle of the first row.
    """
    rows = _rows(len(bases))
    first = 0 if locus is None else int(np.clip(locus - start - ROW_BASES // 2, 0, len(bases) - rows * ROW_BASES))
    track = [] if genes is None else [GENE_HEIGHT * (max(len(genes), 1) + 1)]
    heights = [1.55] * rows + track + [1.9]
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights, width_ratios=(4, 1))
    for row in range(rows):
        axes = figure.add_subplot(grid[row, :])
        _draw_bases(axes, bases, tracks, start, first + row * ROW_BASES)
        if row == 0:
            _chunk_legend(axes, len(tracks), locus is not None)
        if locus is not None and first + row * ROW_BASES <= locus - start < first + (row + 1) * ROW_BASES:
            axes.axvline(locus - start - 0.5, color=LOCUS, linewidth=1.2)
    sequence = figure.add_subplot(grid[-1, 0])
    _draw_sequence(sequence, tracks[0], start)
    if genes is not None:
        above = figure.add_subplot(grid[rows, 0])
        draw_genes(above, genes, start, start + len(bases))
    if locus is not None:
        for axes in figure.axes[rows:]:
            axes.axvline(locus + 0.5, color=LOCUS, linewidth=1.2)
    _draw_lengths(figure.add_subplot(grid[-1, 1]), chunk_lengths(tracks[0][1]))


def _chunk_legend(axes: Axes, stages: int, locus: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(facecolor=CHUNK_FILLS[number], edgecolor=STAGE_COLORS[number], label=label)
        for number, label in enumerate(("a chunk", "the next chunk"))
    ]
    handles += [
        Line2D(
            [], [], color=STAGE_COLORS[(depth + 1) % len(STAGE_COLORS)], linewidth=3, label=f"chunk of stage {depth}"
        )
        for depth in range(1, stages)
    ]
    handles += [Line2D([], [], color=LOCUS, linewidth=1.2, label="the feature")] if locus else []
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=5, borderaxespad=0.1)


def _draw_bases(axes: Axes, bases: str, tracks: list[Track], start: int, first: int) -> None:
    """Draw one row of bases, boxes around its chunks, and bars of boundary probability above the bases."""
    probability, mask = tracks[0]
    stop = min(first + ROW_BASES, len(bases))
    _draw_chunks(axes, mask, first, stop)
    for position in range(first, stop):
        axes.text(
            position,
            0.5,
            bases[position],
            ha="center",
            va="center_baseline",
            family="DejaVu Sans Mono",
            weight="bold",
            fontsize=12,
            color=BASE_COLORS[bases[position]],
        )
    shown = np.arange(first, stop)
    colors = [STAGE_COLORS[0] if mask[position] else OTHER_BAR for position in shown]
    axes.bar(shown, probability[first:stop] * BAR_HEIGHT, bottom=BAR_FOOT, width=0.62, color=colors)
    threshold = BAR_FOOT + THRESHOLD * BAR_HEIGHT
    axes.hlines(threshold, first - 0.5, stop - 0.5, color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)
    for depth, (_, inner) in enumerate(tracks[1:], start=1):
        _draw_inner_chunks(axes, inner, first, stop, depth)
    axes.set_xlim(first - 0.6, first + ROW_BASES - 0.4)
    axes.set_ylim(-0.04 - 0.22 * (len(tracks) - 1), BAR_FOOT + BAR_HEIGHT + 0.04)
    axes.set_yticks([BAR_FOOT, threshold, BAR_FOOT + BAR_HEIGHT], ["0", f"{THRESHOLD:g}", "1"])
    axes.spines["left"].set_bounds(BAR_FOOT, BAR_FOOT + BAR_HEIGHT)
    axes.spines["bottom"].set_visible(False)
    tens = [position for position in shown if (start + position + 1) % 10 == 0]
    axes.set_xticks(tens, [f"{start + position + 1:,}" for position in tens])
    axes.tick_params(axis="x", length=0, labelsize=8)
    axes.set_ylabel("boundary\nprobability", loc="top", fontsize=8)


def _draw_chunks(axes: Axes, mask: np.ndarray, first: int, stop: int) -> None:
    """Draw rounded boxes around the chunks of one row. The box of a chunk that continues in another row is cut off."""
    from matplotlib.patches import FancyBboxPatch

    starts = np.flatnonzero(mask)
    for number, (start, length) in enumerate(zip(starts, chunk_lengths(mask), strict=True)):
        end = start + length
        if end <= first or start >= stop:
            continue
        left, right = max(start, first - 1), min(end, stop + 1)
        box = FancyBboxPatch(
            (left - 0.44, 0.06),
            right - left - 0.12,
            0.88,
            boxstyle="round,pad=0,rounding_size=0.28",
            mutation_aspect=0.7,
            facecolor=CHUNK_FILLS[number % 2],
            edgecolor=STAGE_COLORS[number % 2],
            linewidth=0.8,
        )
        axes.add_patch(box)


def _draw_inner_chunks(axes: Axes, mask: np.ndarray, first: int, stop: int, depth: int) -> None:
    """Draw a bracket under each chunk of an inner stage."""
    color = STAGE_COLORS[(depth + 1) % len(STAGE_COLORS)]
    for start, length in zip(np.flatnonzero(mask), chunk_lengths(mask), strict=True):
        left, right = max(start, first), min(start + length, stop)
        if left < right:
            axes.plot(
                [left - 0.36, right - 0.64], [-0.22 * depth] * 2, color=color, linewidth=3, solid_capstyle="round"
            )


def _draw_sequence(axes: Axes, track: Track, start: int) -> None:
    """Draw the boundary probability along the whole sequence."""
    from matplotlib.ticker import MaxNLocator

    probability, mask = track
    at = start + 1 + np.arange(len(mask))
    for subset, color, label in ((~mask, OTHER_BAR, "inside a chunk"), (mask, STAGE_COLORS[0], "start of a chunk")):
        axes.vlines(at[subset], 0, probability[subset], color=color, linewidth=_bar_width(len(mask)), label=label)
    threshold = {"color": MUTED, "linewidth": 0.7, "linestyle": (0, (4, 3))}
    axes.axhline(THRESHOLD, label="threshold of a boundary", **threshold)
    axes.set_xlim(at[0] - 0.5, at[-1] + 0.5)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, THRESHOLD, 1])
    axes.set_title(f"Whole sequence, {len(mask):,} bp")
    axes.set_ylabel("boundary probability", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    legend = axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.1, handlelength=1)
    for handle in legend.get_lines():
        handle.set_linewidth(1.5)


def _bar_width(bases: int) -> float:
    """Compute the line width of bars in points; bars of longer sequences are thinner."""
    return float(np.clip(450 / bases, 0.35, 3.0))


def _draw_lengths(axes: Axes, lengths: np.ndarray) -> None:
    """Draw the histogram of chunk lengths."""
    from matplotlib.ticker import MaxNLocator

    counts = np.bincount(np.minimum(lengths, MAX_LENGTH), minlength=MAX_LENGTH + 1)
    axes.bar(np.arange(1, MAX_LENGTH + 1), counts[1:], width=0.8, color=STAGE_COLORS[0])
    title = "no boundaries"
    if len(lengths):
        mean = lengths.mean()
        title = f"{mean:.2f} bases per chunk"
        axes.axvline(min(mean, MAX_LENGTH), color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.set_title(title)
    axes.set_xlabel("chunk length (bases)", fontsize=8)
    axes.set_ylabel("chunks", fontsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    ticks = [1, 4, 8, 12, MAX_LENGTH]
    axes.set_xticks(ticks, [*map(str, ticks[:-1]), f"{MAX_LENGTH}+"])
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
