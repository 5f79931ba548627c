"""Training figure of a run, and the style shared by all figures.

matplotlib is imported only when a figure is drawn. No display is needed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldarnet.errors import UserError
from ldarnet.io.files import atomic_path

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
    "text.parse_math": False,
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
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
DOTS_PER_INCH = 160
MAX_MARKERS = 20
"""Curves with at most this number of points are drawn with markers."""


@contextmanager
def png_figure(out_png: str | os.PathLike[str], width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure in the shared style; write it atomically as PNG when the block succeeds.

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
    """Yield an empty figure in the shared style, to draw and save inside the block; width and height in inches."""
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
    """Draw loss over the number of training bases, and compression if the model has chunks.

    Args:
        metrics_jsonl: ``metrics.jsonl`` of a run, with at least one training line.
        out_png: PNG file to write.
        entropy: loss of the unigram baseline, in nats per base; drawn as a dashed line.
        target_ratio: target of the ratio loss, in positions per chunk; drawn as one dashed line per stage.

    Raises:
        UserError: the file is missing, has no training line, or has an invalid line.
    """
    train, valid = _read_metrics(Path(metrics_jsonl))
    steps, bases = _column(train, "step"), _column(train, "bases")

    def bases_at(lines: list[dict[str, Any]]) -> np.ndarray:
        return np.interp(_column(lines, "step"), steps, bases)

    chunked = bool(np.size(train[-1]["bases_per_chunk"]))
    with png_figure(out_png, 8.0, 5.6 if chunked else 3.6) as figure:
        panels = figure.subplots(1 + chunked, 1, sharex=True, squeeze=False, height_ratios=(3, 2)[: 1 + chunked])[:, 0]
        _draw_loss(panels[0], train, valid, bases_at, entropy)
        if chunked:
            _draw_compression(panels[1], train, valid, bases_at, target_ratio)
        panels[-1].set_xmargin(0.06 if valid else 0.02)  # room for the value labels
        panels[-1].set_xlabel("bases seen")
        panels[-1].xaxis.set_major_formatter(short_number)
        for axes in panels:
            axes.grid(axis="y", color=FAINT, linewidth=0.6)
            axes.set_axisbelow(True)


def _draw_loss(
    axes: Axes,
    train: list[dict[str, Any]],
    valid: list[dict[str, Any]],
    bases_at: Callable[[list[dict[str, Any]]], np.ndarray],
    entropy: float | None,
) -> None:
    _draw_curve(axes, bases_at(train), _column(train, "mlm_loss"), TRAIN_COLOR, "training")
    if valid:
        x = bases_at(valid)
        for key, color, label in (
            ("mlm_loss", VALID_COLOR, "validation"),
            ("mask_loss", MASK_COLOR, "validation, masked positions"),
        ):
            values = _column(valid, key)
            axes.plot(x, values, color=color, marker="o", markersize=4, linewidth=1.2, label=label, zorder=3)
            axes.annotate(
                f"{values[-1]:.3f}", (x[-1], values[-1]), (6, 0), textcoords="offset points", va="center", color=color
            ).set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    if entropy is not None:
        label = f"unigram baseline, {entropy:.3f}"
        axes.axhline(entropy, color=INK, linestyle=(0, (5, 3)), linewidth=1.0, label=label)
    axes.set_title("Loss")
    axes.set_ylabel("nats per target position")
    others = [*_column(valid, "mlm_loss"), *_column(valid, "mask_loss"), *([] if entropy is None else [entropy])]
    top, (low, high) = _highest_shown(_column(train, "mlm_loss"), others), axes.get_ylim()
    axes.set_ylim(low, min(high, top + 0.05 * (top - low)))
    _legend_above(axes)


def _draw_compression(
    axes: Axes,
    train: list[dict[str, Any]],
    valid: list[dict[str, Any]],
    bases_at: Callable[[list[dict[str, Any]]], np.ndarray],
    target_ratio: float | None,
) -> None:
    x = bases_at(train)
    ratios = np.array([line["bases_per_chunk"] for line in train], dtype=float).reshape(len(train), -1)
    stages = ratios.shape[1]
    for stage in range(stages):
        color = STAGE_COLORS[stage % len(STAGE_COLORS)]
        name = "training" if stages == 1 else f"training, stage {stage}"
        _draw_curve(axes, x, ratios[:, stage], color, name)
        if valid:
            label = "validation" if stage == 0 else None
            values = [line["bases_per_chunk"][stage] for line in valid]
            axes.plot(
                bases_at(valid), values, "o", color=color, markersize=4, markerfacecolor="white", label=label, zorder=3
            )
        if target_ratio is not None:
            target = target_ratio ** (stage + 1)
            axes.axhline(target, color=INK, linestyle=(0, (5, 3)), linewidth=1.0, label=f"target, {target:g}")
    axes.set_title("Compression")
    axes.set_ylabel("bases per chunk")
    powers_of_two(axes)
    _legend_above(axes)


def powers_of_two(axes: Axes) -> None:
    """Use a log scale for bases per chunk, as a chunk can span a whole window early in a run."""
    from matplotlib.ticker import NullLocator

    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(short_number)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(1, max(8.0, axes.get_ylim()[1]))


def _draw_curve(axes: Axes, x: np.ndarray, y: np.ndarray, color: str, label: str) -> None:
    """Draw raw values faintly and their moving average on top."""
    marker = "o" if len(x) <= MAX_MARKERS else None
    axes.plot(x, y, color=color, alpha=0.3, linewidth=0.8)
    axes.plot(x, smooth(y), color=color, linewidth=1.6, label=label, marker=marker, markersize=2.5)


def _highest_shown(training: np.ndarray, others: list[float]) -> float:
    """Compute an upper limit of the loss axis that cuts off the initial drop of the training loss."""
    return float(np.nanmax([np.nanquantile(training, 0.98 if len(training) > MAX_MARKERS else 1.0), *others]))


def _legend_above(axes: Axes) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, borderaxespad=0.1, columnspacing=1.4)


def smooth(values: np.ndarray) -> np.ndarray:
    """Compute a centered moving average that ignores non-finite values.

    The window spans 1/50 of the values; near both ends it shrinks to stay centered.
    """
    half = len(values) // 100
    finite = np.isfinite(values)
    sums, counts = (np.concatenate([[0.0], np.cumsum(part)]) for part in (np.where(finite, values, 0.0), finite))
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    total, number = (whole[index + reach + 1] - whole[index - reach] for whole in (sums, counts))
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read training and validation lines, sorted by step; if a step occurs several times, use its last line.

    Raises:
        UserError: the file is missing, has no training line, or has an invalid line.
    """
    lines: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "valid": {}}
    try:
        rows = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot read metrics ({error.strerror}); pass the metrics.jsonl of a run") from None
    for number, row in enumerate(rows, start=1):
        try:
            line = json.loads(row)
            lines[line["split"]][line["step"]] = line
        except (ValueError, KeyError, TypeError):
            if number == len(rows):  # the last line is still being written
                break
            raise UserError(f"{path}: line {number}: not a valid metrics line; delete this line") from None
    train, valid = ([by_step[step] for step in sorted(by_step)] for by_step in lines.values())
    if not train:
        raise UserError(f"{path}: no training step logged yet; train first")
    return train, valid


def _column(lines: list[dict[str, Any]], key: str) -> np.ndarray:
    """Extract the values of a key from all lines; NaN where missing."""
    return np.array([np.nan if line.get(key) is None else line[key] for line in lines], dtype=float)


def short_number(value: float, _: Any = None) -> str:
    """Format a number with an SI prefix, such as `12 k`; usable as an axis formatter."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"
