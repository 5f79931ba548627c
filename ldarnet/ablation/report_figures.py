"""Figures of the report of an ablation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ldarnet.ablation.differences import ArmDifference
from ldarnet.ablation.pretraining_tables import loss_name
from ldarnet.ablation.results import NEXT_BASE, AblationResults
from ldarnet.comparison.figure import COLORS, MARKERS
from ldarnet.interpret.figures import FAINT, INK, MUTED, png_figure, short_number
from ldarnet.printable import figure_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES, LENGTHS, DIFFERENCES = "loss.png", "chunk_lengths.png", "differences.png"
MAX_LENGTH = 32
"""Longest chunk in the figure of chunk lengths, in bases."""


def draw_curves(results: AblationResults, out: Path) -> bool:
    """Draw each loss over bases and over FLOPs: thin lines for seeds, thick lines for their mean.

    Returns:
        Whether there is anything to draw.
    """
    losses = results.losses()
    if not losses:
        return False
    with png_figure(out, 10.0, 3.6 * len(losses) + 0.3) as figure:
        panels = figure.subplots(len(losses), 2, squeeze=False)
        for (by_bases, by_flops), loss in zip(panels, losses, strict=True):
            _draw_loss(by_bases, results, loss, "bases")
            _draw_loss(by_flops, results, loss, "flops")
            by_bases.set_title(f"Loss, {loss_name(loss)}")
            by_bases.set_ylabel("bits per base" if loss == NEXT_BASE else "bits per masked base")
        _legend(figure)
    return True


def _draw_loss(axes: Axes, results: AblationResults, loss: str, x: str) -> None:
    tops, arms = [], list(results.arms)
    for name, arm in results.with_loss(loss).items():
        color, marker = _style(arms.index(name))
        curves = [curve for curve in arm.curves.values() if loss in curve.losses]
        for curve in curves:
            axes.plot(getattr(curve, x), curve.losses[loss], color=color, linewidth=0.6, alpha=0.45)
            tops.append(np.nanmax(curve.losses[loss][len(curve.losses[loss]) // 4 :]))
        shared = min(curves, key=lambda curve: len(curve.bases))
        at = getattr(shared, x)
        mean = np.mean([np.interp(at, getattr(curve, x), curve.losses[loss]) for curve in curves], axis=0)
        axes.plot(at, mean, color=color, linewidth=1.6, marker=marker, markersize=3.5, label=figure_label(name))
    if tops:
        low, high = axes.get_ylim()
        axes.set_ylim(low, min(high, max(tops) + 0.08 * (max(tops) - low)))
    axes.set_xlabel("bases seen" if x == "bases" else "training FLOPs")
    axes.xaxis.set_major_formatter(short_number if x == "bases" else lambda value, _: f"{value:.3g}")
    axes.grid(axis="y", color=FAINT, linewidth=0.6)


def _style(number: int) -> tuple[str, str]:
    return COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]


def _legend(figure: Figure) -> None:
    drawn = {}
    for axes in figure.axes:
        drawn |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    columns = min(len(drawn), 6)
    if drawn:
        figure.legend(drawn.values(), drawn, loc="outside upper right", ncols=columns, columnspacing=1.4)


def draw_chunk_lengths(results: AblationResults, out: Path) -> bool:
    """Draw the distribution of chunk lengths of each arm, over all seeds; the first router alone.

    Returns:
        Whether there is anything to draw.
    """
    counts = {}
    for name, arm in results.arms.items():
        stages = (
            [seed[0]["chunk_lengths"] for seed in arm.statistics["seeds"].values() if seed] if arm.statistics else []
        )
        if stages and np.sum(stages):
            counts[name] = np.sum(stages, axis=0) / np.sum(stages)
    if not counts:
        return False
    arms = list(results.arms)
    columns = min(3, len(counts))
    rows = -(-len(counts) // columns)
    with png_figure(out, 3.4 * columns, 1.9 * rows + 0.3) as figure:
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for axes, (name, shares) in zip(panels, counts.items(), strict=False):
            shown = np.append(shares[: MAX_LENGTH - 1], shares[MAX_LENGTH - 1 :].sum())
            axes.bar(np.arange(1, len(shown) + 1), 100 * shown, color=_style(arms.index(name))[0])
            axes.set_title(figure_label(name))
            axes.set_ylabel("% of chunks", fontsize=8)
            axes.grid(axis="y", color=FAINT, linewidth=0.6)
            axes.set_axisbelow(True)
            ticks = [1, 8, 16, 24, MAX_LENGTH]
            axes.set_xticks(ticks, [*map(str, ticks[:-1]), f"{MAX_LENGTH}+"])
            axes.set_xlabel("chunk length (bases)", fontsize=8)
            axes.tick_params(labelbottom=True)
        for axes in panels[len(counts) :]:
            axes.set_visible(False)
    return True


def draw_differences(results: AblationResults, groups: dict[str, list[ArmDifference]], out: Path) -> bool:
    """Draw differences from the reference with their 95% intervals, one panel per group.

    Args:
        results: results of the ablation.
        groups: title -> differences, one per arm.
        out: PNG file to write.

    Returns:
        Whether there is anything to draw.
    """
    from matplotlib.ticker import MaxNLocator

    groups = {title: found for title, found in groups.items() if found}
    if not groups:
        return False
    arms = [name for name in results.arms if any(one.arm == name for found in groups.values() for one in found)]
    with png_figure(out, 3.4 * len(groups) + 1.2, 0.36 * len(arms) + 1.5) as figure:
        panels = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
        for axes, (title, found) in zip(panels, groups.items(), strict=True):
            axes.axvline(0, color=INK, linewidth=0.8)
            for one in found:
                color, marker = _style(list(results.arms).index(one.arm))
                mean, half = one.difference.mean, one.difference.half
                error = None if half is None else [[half], [half]]
                axes.errorbar(mean, arms.index(one.arm), xerr=error, fmt=marker, color=color, capsize=3, markersize=5)
            axes.set_title(title, fontsize=9)
            better = "less" if found[0].unit == "bits" else "more"
            axes.set_xlabel(f"difference ({found[0].unit}), {better} is better", fontsize=8)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.grid(axis="x", color=FAINT, linewidth=0.6)
            axes.set_axisbelow(True)
        panels[0].set_yticks(range(len(arms)), [figure_label(name) for name in arms])
        panels[0].set_ylim(len(arms) - 0.5, -0.5)
        heading = f"Differences from {figure_label(results.reference)}, with 95% intervals"
        figure.suptitle(heading, x=0.01, ha="left", color=MUTED, fontsize=9)
    return True
