"""Figure of the metrics of a training run, and the style of all figures.

matplotlib is imported only when a figure is drawn. No display is needed.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ldarnet.errors import UserError
from ldarnet.io.files import atomic_path
from ldarnet.io.run_lines import NEXT_BASE_LOSS, loss_name, loss_of, read_metrics_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, FAINT = "#1f2933", "#66727f", "#d5dbe1"
"""Colors of text, secondary text, and grid lines."""
STAGE_COLORS = ("#1f6fb2", "#c4622d", "#2f8f5b", "#7a5195")
"""Color of each stage of the hierarchy, outermost first."""
TRAIN_COLOR, VALID_COLOR, MASK_COLOR = "#1f6fb2", "#c4622d", "#7a5195"
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # names may contain $
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "svg.hashsalt": "ldarnet",  # the same figure gives the same file
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
DOTS_PER_INCH = 160
DASHED = (0, (5, 3))
"""Line style of targets and baselines."""
MAX_VALUE = 1e38
MAX_MARKERS = 20
"""Curves with at most this number of points are drawn with markers."""


@contextmanager
def png_figure(out_png: str | os.PathLike[str], width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure in the shared style; if the block succeeds, write the figure atomically as PNG.

    Args:
        out_png: file to write; its folder is created.
        width: width in inches.
        height: height in inches.

    Raises:
        UserError: the disk is full.
    """
    out_png = Path(out_png)
    out_png.parent.mkdir(parents=True, exist_ok=True)
    with styled_figure(width, height) as figure:
        yield figure
        with atomic_path(out_png) as partial:
            figure.savefig(partial, format="png", dpi=DOTS_PER_INCH)


@contextmanager
def styled_figure(width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure with the given width and height in inches.

    Draw and save the figure inside the block, because the shared style applies only there.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained", facecolor="white")


def training_figure(
    metrics_jsonl: str | os.PathLike[str],
    out_png: str | os.PathLike[str],
    *,
    entropy: float | None = None,
    target_ratio: float | None = None,
) -> None:
    """Draw loss, and compression if the model has chunks, against the number of training bases.

    Args:
        metrics_jsonl: ``metrics.jsonl`` of a run, with at least one training line.
        out_png: PNG file to write.
        entropy: loss of the unigram baseline, in nats per base; drawn as a dashed line.
        target_ratio: target of the ratio loss, in positions per chunk, the same for all stages. The dashed line of
            stage s is at `target_ratio ** (s + 1)` bases per chunk, because the chunks of a stage are the positions of
            the next stage.

    Raises:
        UserError: the file is missing, has no training line, or has an invalid line.
    """
    train, valid, loss = _read_metrics(Path(metrics_jsonl))
    causal = loss == NEXT_BASE_LOSS
    bases_valid = np.interp(valid.step, train.step, train.bases)
    chunked = train.ratios.shape[1] > 0
    with png_figure(out_png, 8.0, 5.6 if chunked else 3.6) as figure:
        panels = figure.subplots(1 + chunked, 1, sharex=True, squeeze=False, height_ratios=(3, 2)[: 1 + chunked])[:, 0]
        panels[0].set_title("Next-base loss" if causal else "Loss")
        panels[0].set_ylabel("nats per base" if causal else "nats per target position")
        plot_loss(panels[0], train.bases, train.loss, bases_valid, valid.loss, valid.mask_loss, baseline=entropy)
        if chunked:
            targets = None if target_ratio is None else np.full(len(train.step), target_ratio)
            panels[1].set_title("Compression" if causal else "Compression (masked input)")
            panels[1].set_ylabel("bases per chunk")
            plot_compression(panels[1], train.bases, list(train.ratios.T), bases_valid, list(valid.ratios.T), targets)
        panels[-1].set_xmargin(0.06 if len(valid.step) else 0.02)  # room for the value labels
        panels[-1].set_xlabel("bases seen")
        panels[-1].xaxis.set_major_formatter(short_number)
        for axes in panels:
            axes.grid(axis="y", color=FAINT, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, borderaxespad=0.1, columnspacing=1.4)


def plot_loss(
    axes: Axes,
    x: np.ndarray,
    training: np.ndarray,
    x_valid: np.ndarray,
    valid_loss: np.ndarray,
    mask_loss: np.ndarray,
    *,
    baseline: float | None,
) -> None:
    """Plot training and validation loss. The y axis excludes the high loss at the start of training.

    T and V are the numbers of logged training steps and validations.

    Args:
        axes: empty axes.
        x: (T,) x coordinates of the training steps, in steps or bases.
        training: (T,) MLM loss or next-base loss.
        x_valid: (V,) x coordinates of the validations, in steps or bases.
        valid_loss: (V,) the same over all targets of the validation.
        mask_loss: (V,) loss over the targets whose input is [MASK]; NaN where missing.
        baseline: loss of the unigram baseline; None to omit the baseline.
    """
    draw_curve(axes, x, training, TRAIN_COLOR, "training")
    levels = (
        [np.nanquantile(training, 0.98 if len(training) > MAX_MARKERS else 1.0)] if np.isfinite(training).any() else []
    )
    ends = []
    for values, color, label in (
        (valid_loss, VALID_COLOR, "validation"),
        (mask_loss, MASK_COLOR, "validation, masked positions"),
    ):
        if np.isfinite(values).any():
            axes.plot(x_valid, values, color=color, marker="o", markersize=4, linewidth=1.2, label=label, zorder=3)
            levels.append(np.nanmax(values))
        if len(values) and np.isfinite(values[-1]):
            ends.append((values[-1], color))
    # Anchor the labels of the last values away from each other, so that they do not overlap.
    anchors = ("top", "bottom") if len(ends) == 2 else ("center",)
    for (value, color), anchor in zip(sorted(ends), anchors, strict=False):
        axes.annotate(
            f"{value:.3f}", (x_valid[-1], value), (6, 0), textcoords="offset points", va=anchor, color=color
        ).set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0})
    if baseline is not None and np.isfinite(baseline):
        label = f"unigram baseline, {baseline:.3f}"
        axes.axhline(baseline, color=INK, linestyle=DASHED, linewidth=1.0, label=label)
        levels.append(baseline)
    if levels:
        top, (low, high) = max(levels), axes.get_ylim()
        axes.set_ylim(low, min(high, top + 0.05 * (top - low)))


def plot_compression(
    axes: Axes,
    x: np.ndarray,
    training: Sequence[np.ndarray],
    x_valid: np.ndarray,
    validation: Sequence[np.ndarray],
    targets: np.ndarray | None,
) -> None:
    """Plot bases per chunk of each stage, on a log scale.

    T and V are the numbers of logged training steps and validations.

    Args:
        axes: empty axes.
        x: (T,) x coordinates of the training steps, in steps or bases.
        training: bases per chunk at the training steps, one array (T,) per stage.
        x_valid: (V,) x coordinates of the validations, in steps or bases.
        validation: bases per chunk at the validations, one array (V,) per stage.
        targets: (T,) target of the ratio loss, in positions per chunk, the same for all stages. The target line
            of stage s is at `targets ** (s + 1)` bases per chunk. None to omit targets.
    """
    for stage, values in enumerate(training):
        label = "training" if len(training) == 1 else f"training, stage {stage}"
        draw_curve(axes, x, values, STAGE_COLORS[stage % len(STAGE_COLORS)], label)
    for stage, values in enumerate(validation):
        color, label = STAGE_COLORS[stage % len(STAGE_COLORS)], "validation" if stage == 0 else None
        axes.plot(x_valid, values, "o", color=color, markersize=4, markerfacecolor="white", label=label, zorder=3)
    powers = [] if targets is None else [targets ** (stage + 1) for stage in range(len(training))]
    style: dict[str, Any] = {"color": INK, "linestyle": DASHED, "linewidth": 1.0}
    for stage, target in enumerate(powers):
        if not np.isfinite(target).any():
            continue
        if (target == target[-1]).all():
            axes.axhline(target[-1], label=f"target, {target[-1]:.4g}", **style)
        else:
            axes.plot(x, target, label="target" if stage == 0 else None, **style)
    powers_of_two(axes)


def powers_of_two(axes: Axes) -> None:
    """Use a base-2 log scale for the y axis, from 1 to at least 8."""
    from matplotlib.ticker import NullLocator

    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(short_number)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(1, max(8.0, axes.get_ylim()[1]))


def log_scale(axes: Axes) -> None:
    """Use a log scale for the y axis, with plain numbers such as 0.1 at the ticks."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = np.log10(high / low)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2.5 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(short_number)
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw_curve(axes: Axes, x: np.ndarray, y: np.ndarray, color: str, label: str) -> None:
    """Draw raw values faintly, with their moving average on top.

    If there are at most MAX_MARKERS values, draw only the raw values, as a line with markers.
    """
    if len(x) <= MAX_MARKERS:
        axes.plot(x, y, color=color, linewidth=1.4, label=label, marker="o", markersize=2.5)
        return
    axes.plot(x, y, color=color, alpha=0.25, linewidth=0.7)
    axes.plot(x, smooth(y), color=color, linewidth=1.5, label=label)


def smooth(values: np.ndarray) -> np.ndarray:
    """Compute a centered moving average that ignores non-finite values.

    The window spans 1/50 of the values. Near the first and the last value, it is smaller, so that it stays centered.
    """
    half = len(values) // 100
    finite = np.isfinite(values)
    sums, counts = (np.concatenate([[0.0], np.cumsum(part)]) for part in (np.where(finite, values, 0.0), finite))
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    total, number = (whole[index + reach + 1] - whole[index - reach] for whole in (sums, counts))
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


class _Points(NamedTuple):
    """Metrics of one split, read from N lines of metrics.jsonl and sorted by step.

    `ratios` has shape (N, stages); the other fields have shape (N,).
    """

    step: np.ndarray
    bases: np.ndarray
    loss: np.ndarray
    mask_loss: np.ndarray
    ratios: np.ndarray


def _read_metrics(path: Path) -> tuple[_Points, _Points, str]:
    """Read training and validation lines. If several lines of a split have the same step, use the last of them.

    Returns:
        Metrics of both splits, and the key of the loss.

    Raises:
        UserError: the file is missing, has no training line, or has an invalid line.
    """
    values, stages, loss = {"train": array("d"), "valid": array("d")}, 0, ""
    for line in read_metrics_lines(path):
        ratios = line["bases_per_chunk"]
        bases, mask_loss = (line["bases"], None) if line["split"] == "train" else (None, line.get("mask_loss"))
        loss = loss_name(line)
        numbers = (line["step"], bases, loss_of(line), mask_loss, *ratios)
        values[line["split"]].extend(math.nan if number is None else number for number in numbers)
        stages = len(ratios)
    if not values["train"]:
        raise UserError(f"{path}: no training step logged yet; try again after the first logged step")
    return _points(values["train"], stages), _points(values["valid"], stages), loss


def _points(values: array[float], stages: int) -> _Points:
    rows = drawable(np.frombuffer(values).reshape(-1, 4 + stages))
    _, last = np.unique(rows[::-1, 0], return_index=True)
    rows = rows[::-1][last]
    step, bases, loss, mask_loss = rows[:, :4].T
    return _Points(step, bases, loss, mask_loss, rows[:, 4:])


def drawable(values: np.ndarray) -> np.ndarray:
    """Replace infinite values and values that are too large for matplotlib with NaN."""
    return np.where(np.abs(values) < MAX_VALUE, values, np.nan)


def short_number(value: float, _: Any = None) -> str:
    """Format a number with an SI prefix, such as `12 k`; usable as an axis formatter."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < np.inf:
            return f"{value / size:g} {letter}"
    return f"{value:g}"
