"""Figure of a comparison: one row per task, with means and confidence intervals of arms, and published results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ldarnet.comparison.formatting import AUTHORS, SUITES
from ldarnet.comparison.results import ComparedTask, Comparison, TaskResults
from ldarnet.interpret.figures import FAINT, INK, MUTED, STAGE_COLORS, png_figure
from ldarnet.printable import figure_label
from ldarnet.tasks.metrics import find_metric, interval, metric_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.0
ROW_HEIGHT = 0.34
"""Height of the row of a task with one or two arms, in inches."""
ARM_HEIGHT = 0.11
"""Height that each further arm adds to the row of a task, in inches."""
PANEL_MARGIN = 0.95
"""Height of a panel's title and x-axis, in inches."""
COLORS = (*STAGE_COLORS, "#d9a400", "#56b4e9")
MARKERS = "osD^vPX"
"""Seven markers and six colors, so that the first 42 arms differ in color or marker."""
ARM_SPREAD = 0.62
"""Fraction of a task's row over which the arms are spread."""
MAX_LEGEND_CHARS = 80
"""Maximum number of label characters in a single-row legend."""
OTHERS = "other published models"


def draw(comparison: Comparison, out: Path) -> None:
    """Draw all arms on all tasks into a PNG file, with one panel per suite and metric."""
    comparison = comparison.renamed(figure_label)
    panels: dict[tuple[str, str], list[ComparedTask]] = {}
    for task in comparison.tasks:
        panels.setdefault((task.suite, task.metric), []).append(task)
    arms = comparison.arms
    row_height = ROW_HEIGHT + ARM_HEIGHT * max(0, len(arms) - 2)
    heights = [PANEL_MARGIN + row_height * len(tasks) for tasks in panels.values()]
    with png_figure(out, WIDTH, sum(heights) + 0.35) as figure:
        for axes, ((suite, metric), tasks) in zip(
            figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0], panels.items(), strict=True
        ):
            _draw_rows(axes, tasks)
            for number, arm in enumerate(arms):
                _draw_arm(axes, arm, number, len(arms), [comparison.get(arm, task) for task in tasks])
            _draw_published(axes, tasks)
            axes.set_title(SUITES.get(suite, suite))
            notes = _notes(comparison.of(tasks).results)
            axes.set_xlabel(metric_name(metric) + (f"   ({notes})" if notes else ""))
        _draw_legend(figure, arms)


def _draw_legend(figure: Figure, arms: list[str]) -> None:
    """Draw the legend above all panels: arms first, then published results."""
    drawn = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    labels = [label for label in (*arms, AUTHORS, OTHERS) if label in drawn]
    columns = len(labels) if sum(map(len, labels)) < MAX_LEGEND_CHARS else 3
    handles = [drawn[label] for label in labels]
    figure.legend(handles, labels, loc="outside upper right", ncols=columns, columnspacing=1.4)


def _draw_rows(axes: Axes, tasks: list[ComparedTask]) -> None:
    """Draw axis labels and banded rows, with the first task at the top."""
    axes.set_yticks(range(len(tasks)), [task.name for task in tasks], color=INK)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    for row in range(0, len(tasks), 2):
        axes.axhspan(row - 0.5, row + 0.5, color=FAINT, alpha=0.28, linewidth=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


def _draw_published(axes: Axes, tasks: list[ComparedTask]) -> None:
    """Draw the mean of each published model as a tick, and the confidence interval over the authors' folds as a bar."""
    others = [
        (number.value, row)
        for row, task in enumerate(tasks)
        for number in task.published
        if number.source.ranked and not number.folds
    ]
    if others:
        _draw_ticks(axes, others, OTHERS, size=9, width=1.0, color=MUTED)
    folds = [(row, list(task.authors_folds.values())) for row, task in enumerate(tasks)]
    authors = [(*interval(values), row) for row, values in folds if values]
    for mean, half, row in authors:
        axes.barh(row, 2 * (half or 0), 0.84, left=mean - (half or 0), color=INK, alpha=0.13, linewidth=0, zorder=1)
    if authors:
        _draw_ticks(axes, [(mean, row) for mean, _, row in authors], AUTHORS, size=15, width=1.6, color=INK)


def _draw_ticks(
    axes: Axes, points: list[tuple[float, int]], label: str, *, size: float, width: float, color: str
) -> None:
    x, y = zip(*points, strict=True)
    axes.plot(x, y, "|", markersize=size, markeredgewidth=width, color=color, label=label)


def _draw_arm(axes: Axes, arm: str, number: int, arms: int, results: list[TaskResults | None]) -> None:
    """Draw the mean of an arm on each task, with its confidence interval or, if there is none, with a dot per fold.

    The marker of the mean is hollow if the rows of the arm differ from those of the published results.
    """
    offset = ARM_SPREAD * (number / (arms - 1) - 0.5) if arms > 1 else 0.0
    color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
    for row, result in enumerate(results):
        if result is None or not (mean := result.mean()):
            continue
        (x, _), y, ends = mean, row + offset, _interval_ends(result)
        if ends is None:
            dots = _dots(result)
            axes.plot(dots, [y] * len(dots), ".", color=color, markersize=4, alpha=0.7, zorder=3)
        else:
            for (clipped, end), arrow in zip(ends, "<>", strict=True):
                axes.plot([x, clipped], [y, y], color=color, linewidth=1.3, zorder=3)
                if clipped != end:
                    axes.plot(clipped, y, arrow, color=color, markersize=5, zorder=3)
        face = color if result.row_mismatch is None else "white"
        axes.plot(x, y, marker, color=color, markersize=4.6, markerfacecolor=face, label=arm, zorder=4)


def _interval_ends(result: TaskResults) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Lower and upper end of the confidence interval, each as a pair: clipped to the metric's range, and unclipped."""
    mean = result.mean()
    if mean is None or mean[1] is None:
        return None
    low, high = mean[0] - mean[1], mean[0] + mean[1]
    return (max(low, _minimum(result.task.metric)), low), (min(high, 1.0), high)


def _minimum(metric: str) -> float:
    return -math.inf if (known := find_metric(metric)) is None else known.minimum


def _dots(result: TaskResults) -> list[float]:
    """Values to draw as dots, one per fold; empty if there is a confidence interval or all folds have equal values."""
    folds = list(result.values().values())
    return [] if _interval_ends(result) or len(set(folds)) == 1 else folds


def _notes(results: Sequence[TaskResults]) -> str:
    """Text that explains the hollow markers, dots and arrows that occur in a panel."""
    ends = [_interval_ends(result) for result in results]
    used = {
        "hollow: rows differ from the published ones": any(result.row_mismatch for result in results),
        "dots: single folds, too few for an interval": any(_dots(result) for result in results),
        "arrow: interval clipped at the metric's limit": any(
            clipped != end for pair in ends if pair for clipped, end in pair
        ),
    }
    return "; ".join(note for note, is_used in used.items() if is_used)
