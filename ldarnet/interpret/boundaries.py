"""Where a model begins its chunks along a stretch of DNA: as numbers and as a picture."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from ldarnet import alphabet
from ldarnet.errors import UserError
from ldarnet.interpret.figures import FAINT, INK, MUTED, STAGE_COLOURS, picture
from ldarnet.model import LDARNetForMaskedLM, LDARNetModel
from ldarnet.model.router import THRESHOLD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASE_COLOURS: dict[str, str] = dict(
    zip(alphabet.NUCLEOTIDES, ("#2c8a4b", "#2b6cb0", "#c77d0a", "#c0392b", "#8a94a0"), strict=True)
)
CHUNK_FILLS = ("#dfeaf5", "#f8e9dc")
"""Of neighbouring chunks in turn."""
OTHER_BAR = "#b9c3cd"
"""Of the probability where no chunk begins."""
ROW_BASES = 60
ROWS = 2
LONGEST_SHOWN = 16
"""Longer chunks share the last bar of the histogram."""
BAR_FOOT, BAR_HEIGHT = 1.22, 1.15
"""Where the probability bars stand above a row of letters, whose boxes are 1 high, and how high a certain one is."""

Track = tuple[np.ndarray, np.ndarray]


def boundary_track(model: LDARNetModel | LDARNetForMaskedLM, ids: np.ndarray) -> list[Track]:
    """The boundary probability and the boundaries of one sequence, stage by stage, at its bases.

    The model is run in evaluation mode, without gradients and on its own device, and left in the mode it was in.

    Args:
        model: any LDARNet model with boundaries in its output.
        ids: token ids of the sequence, (L,) of any integer type, L >= 1, without padding.

    Returns:
        For each stage, the outermost first: probability (L,) float32 and mask (L,) bool. An inner stage decides only
        where a chunk of the stage around it begins; elsewhere its probability is 0 and its mask False.

    Raises:
        UserError: `ids` is empty or has more than one dimension.
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or not len(ids):
        raise UserError(f"ids of shape {ids.shape}: a track needs one sequence of at least one base, shape (L,)")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            output = model(torch.from_numpy(ids.astype(np.int64))[None].to(model.device))
    finally:
        model.train(was_training)
    tracks, at = [], np.arange(len(ids))
    for stage in output.boundaries:
        probability, mask = np.zeros(len(ids), np.float32), np.zeros(len(ids), bool)
        probability[at] = stage.probability[0, : len(at)].float().cpu().numpy()
        mask[at] = stage.mask[0, : len(at)].cpu().numpy()
        tracks.append((probability, mask))
        at = np.flatnonzero(mask)
    return tracks


def chunk_lengths(mask: np.ndarray) -> np.ndarray:
    """Lengths (M,) in bases of the chunks that begin where `mask` (L,) is true; the last one ends with the stretch."""
    return np.diff(np.append(np.flatnonzero(mask), len(mask)))


def chunks(model: LDARNetModel, sequence: str, stage: int = 0, window: int = 4096) -> Iterator[tuple[int, int]]:
    """Cut a sequence as a model does.

    Args:
        model: the model.
        sequence: bases.
        stage: level of chunks, 0 for the finest.
        window: bases the model sees at once.

    Yields:
        Start and end of each chunk, in bases from 0, the end excluded.

    Raises:
        UserError: the model has no such stage, or no chunks at all.
    """
    levels = model.config.num_stages - 1
    if levels == 0:
        raise UserError("a model of one stage has no chunks")
    if stage >= levels:
        raise UserError(f"stage {stage}: choose one of 0 to {levels - 1}; this model cuts {levels} time(s)")
    for offset in range(0, len(sequence), window):
        ids = alphabet.encode(sequence[offset : offset + window])
        _, begins = boundary_track(model, ids)[stage]
        yield from pairwise([*(offset + begins.nonzero()[0]).tolist(), offset + len(ids)])


def boundary_figure(
    model: LDARNetModel | LDARNetForMaskedLM,
    ids: np.ndarray,
    contig: str,
    start: int,
    out_png: str | os.PathLike[str],
    *,
    title: str = "Learned boundaries",
) -> None:
    """Draw the chunks of a stretch: base by base at its beginning, in outline along all of it, and their lengths.

    Args:
        model: the model that chooses the boundaries.
        ids: token ids of the stretch, (L,); a kilobase or two reads best.
        contig: name of the sequence it comes from.
        start: its first base in that sequence, counted from 0; the picture counts from 1, as genome browsers do.
        out_png: the picture to write.
        title: its heading.

    Raises:
        UserError: `ids` is no single sequence, the model has no chunks, or the device is full.
    """
    tracks = boundary_track(model, ids)
    if not tracks:
        raise UserError("a model of one stage has no chunks, so there are no boundaries to draw")
    letters = alphabet.decode(np.minimum(ids, alphabet.N))
    with picture(out_png, 11.0, boundaries_height(len(letters))) as figure:
        place = f"{contig}:{start + 1:,}–{start + len(letters):,}"  # noqa: RUF001
        figure.suptitle(f"{title}   ", x=0.012, ha="left", fontsize=13, fontweight="bold")
        figure.text(0.988, 0.985, place, ha="right", va="top", color=MUTED, fontsize=10)
        draw_boundaries(figure, letters, tracks, start)


def boundaries_height(bases: int) -> float:
    """Height in inches of a picture of boundaries with a heading, 11 inches wide."""
    return 2.9 + 1.55 * _rows(bases)


def _rows(bases: int) -> int:
    return min(ROWS, -(-bases // ROW_BASES))


def draw_boundaries(figure: Figure, letters: str, tracks: list[Track], start: int) -> None:
    """Fill a figure with what `boundary_figure` draws, from tracks of any origin; there is at least one.

    Args:
        figure: the figure.
        letters: bases of the stretch, L of them.
        tracks: probability and boundaries by stage, as `boundary_track` gives them.
        start: the first base in its sequence, counted from 0.
    """
    rows = _rows(len(letters))
    grid = figure.add_gridspec(rows + 1, 2, height_ratios=[1.55] * rows + [1.9], width_ratios=(4, 1))
    for row in range(rows):
        _draw_letters(figure.add_subplot(grid[row, :]), letters, tracks, start, row * ROW_BASES)
    _draw_stretch(figure.add_subplot(grid[rows, 0]), tracks[0], start)
    _draw_lengths(figure.add_subplot(grid[rows, 1]), chunk_lengths(tracks[0][1]))


def _draw_letters(axes: Axes, letters: str, tracks: list[Track], start: int, first: int) -> None:
    """One row of bases with the chunks around them, and the boundary probability of each above it."""
    probability, mask = tracks[0]
    stop = min(first + ROW_BASES, len(letters))
    _draw_chunks(axes, mask, first, stop)
    for place in range(first, stop):
        axes.text(
            place,
            0.5,
            letters[place],
            ha="center",
            va="center_baseline",
            family="DejaVu Sans Mono",
            weight="bold",
            fontsize=12,
            color=BASE_COLOURS[letters[place]],
        )
    shown = np.arange(first, stop)
    colours = [STAGE_COLOURS[0] if mask[place] else OTHER_BAR for place in shown]
    axes.bar(shown, probability[first:stop] * BAR_HEIGHT, bottom=BAR_FOOT, width=0.62, color=colours)
    threshold = BAR_FOOT + THRESHOLD * BAR_HEIGHT
    axes.hlines(threshold, first - 0.5, stop - 0.5, color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)
    for depth, (_, inner) in enumerate(tracks[1:], start=1):
        _draw_inner_chunks(axes, inner, first, stop, depth)
    axes.set_xlim(first - 0.6, first + ROW_BASES - 0.4)
    axes.set_ylim(-0.04 - 0.22 * (len(tracks) - 1), BAR_FOOT + BAR_HEIGHT + 0.04)
    axes.set_yticks([BAR_FOOT, threshold, BAR_FOOT + BAR_HEIGHT], ["0", f"{THRESHOLD:g}", "1"])
    axes.spines["left"].set_bounds(BAR_FOOT, BAR_FOOT + BAR_HEIGHT)
    axes.spines["bottom"].set_visible(False)
    tens = [place for place in shown if (start + place + 1) % 10 == 0]
    axes.set_xticks(tens, [f"{start + place + 1:,}" for place in tens])
    axes.tick_params(axis="x", length=0, labelsize=8)
    axes.set_ylabel("boundary\nprobability", loc="top", fontsize=8)


def _draw_chunks(axes: Axes, mask: np.ndarray, first: int, stop: int) -> None:
    """Rounded boxes around the chunks; one that goes on in another row is cut open at the edge of this one."""
    from matplotlib.patches import FancyBboxPatch

    begins = np.flatnonzero(mask)
    for number, (begin, length) in enumerate(zip(begins, chunk_lengths(mask), strict=True)):
        end = begin + length
        if end <= first or begin >= stop:
            continue
        left, right = max(begin, first - 1), min(end, stop + 1)
        box = FancyBboxPatch(
            (left - 0.44, 0.06),
            right - left - 0.12,
            0.88,
            boxstyle="round,pad=0,rounding_size=0.28",
            mutation_aspect=0.7,
            facecolor=CHUNK_FILLS[number % 2],
            edgecolor=STAGE_COLOURS[number % 2],
            linewidth=0.8,
        )
        axes.add_patch(box)


def _draw_inner_chunks(axes: Axes, mask: np.ndarray, first: int, stop: int, depth: int) -> None:
    """A bracket under each chunk of an inner stage."""
    colour = STAGE_COLOURS[(depth + 1) % len(STAGE_COLOURS)]
    for begin, length in zip(np.flatnonzero(mask), chunk_lengths(mask), strict=True):
        left, right = max(begin, first), min(begin + length, stop)
        if left < right:
            axes.plot(
                [left - 0.36, right - 0.64], [-0.22 * depth] * 2, color=colour, linewidth=3, solid_capstyle="round"
            )


def _draw_stretch(axes: Axes, track: Track, start: int) -> None:
    """The probability along the whole stretch, with the boundaries in colour."""
    from matplotlib.ticker import MaxNLocator

    probability, mask = track
    at = start + 1 + np.arange(len(mask))
    for which, colour, label in ((~mask, OTHER_BAR, "inside a chunk"), (mask, STAGE_COLOURS[0], "a chunk begins")):
        axes.vlines(at[which], 0, probability[which], color=colour, linewidth=_bar_width(len(mask)), label=label)
    axes.axhline(THRESHOLD, color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
    axes.set_xlim(at[0] - 0.5, at[-1] + 0.5)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, THRESHOLD, 1])
    axes.set_title(f"The whole stretch, {len(mask):,} bp")
    axes.set_ylabel("boundary probability", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    legend = axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1, handlelength=1)
    for handle in legend.get_lines():
        handle.set_linewidth(3)


def _bar_width(bases: int) -> float:
    """In points, so that bars just do not touch."""
    return float(np.clip(450 / bases, 0.35, 3.0))


def _draw_lengths(axes: Axes, lengths: np.ndarray) -> None:
    """How many chunks have which length."""
    from matplotlib.ticker import MaxNLocator

    counts = np.bincount(np.minimum(lengths, LONGEST_SHOWN), minlength=LONGEST_SHOWN + 1)
    axes.bar(np.arange(1, LONGEST_SHOWN + 1), counts[1:], width=0.8, color=STAGE_COLOURS[0])
    title = "no chunk begins here"
    if len(lengths):
        mean = lengths.mean()
        title = f"{mean:.2f} bases per chunk"
        axes.axvline(min(mean, LONGEST_SHOWN), color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.set_title(title)
    axes.set_xlabel("chunk length (bases)", fontsize=8)
    axes.set_ylabel("chunks", fontsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    ticks = [1, 4, 8, 12, LONGEST_SHOWN]
    axes.set_xticks(ticks, [*map(str, ticks[:-1]), f"{LONGEST_SHOWN}+"])
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
