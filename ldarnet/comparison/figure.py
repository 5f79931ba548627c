"""The picture of a comparison: a row for each task, our arms with their intervals, and what is published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ldarnet.comparison.results import ComparedTask, Comparison, TaskResults
from ldarnet.comparison.tables import AUTHORS, SUITES
from ldarnet.interpret.figures import FAINT, INK, MUTED, STAGE_COLOURS, picture
from ldarnet.tasks.metrics import METRICS, interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.0
ROW = 0.34
"""Inches of a task with one or two arms."""
ARM = 0.11
"""Inches that each further arm adds to a task."""
AROUND = 0.95
"""Inches of a panel's title and its axis."""
COLOURS = (*STAGE_COLOURS, "#d9a400", "#56b4e9")
MARKERS = "osD^vPX"
"""One more than colours, so that no two of 42 arms have both alike."""
SPREAD = 0.62
"""Share of a task's row that the arms take."""
LEGEND_LETTERS = 80
"""That fit into one line of the legend, beside the marks."""
OTHERS = "other published models"


def draw(comparison: Comparison, out: Path) -> None:
    """Draw every task of every arm, a panel for each suite and metric.

    Args:
        comparison: of all arms.
        out: the PNG file.
    """
    panels: dict[tuple[str, str], list[ComparedTask]] = {}
    for task in comparison.tasks:
        panels.setdefault((task.suite, task.metric), []).append(task)
    arms = comparison.arms
    row = ROW + ARM * max(0, len(arms) - 2)
    heights = [AROUND + row * len(tasks) for tasks in panels.values()]
    with picture(out, WIDTH, sum(heights) + 0.35) as figure:
        for axes, ((suite, metric), tasks) in zip(
            figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0], panels.items(), strict=True
        ):
            _rows(axes, tasks)
            for number, arm in enumerate(arms):
                _arm(axes, arm, number, len(arms), [comparison.get(arm, task) for task in tasks])
            _published(axes, tasks)
            axes.set_title(SUITES.get(suite, suite))
            notes = _notes(comparison.of(tasks).results)
            axes.set_xlabel(METRICS[metric].name + (f"   ({notes})" if notes else ""))
        _legend(figure, arms)


def _legend(figure: Figure, arms: list[str]) -> None:
    """Above all panels: our arms, then what is published."""
    drawn = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    labels = [label for label in (*arms, AUTHORS, OTHERS) if label in drawn]
    columns = len(labels) if sum(map(len, labels)) < LEGEND_LETTERS else 3
    handles = [drawn[label] for label in labels]
    figure.legend(handles, labels, loc="outside upper right", ncols=columns, columnspacing=1.4)


def _rows(axes: Axes, tasks: list[ComparedTask]) -> None:
    """A line of its own for each task, the first on top."""
    axes.set_yticks(range(len(tasks)), [task.name for task in tasks], color=INK)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    for place in range(0, len(tasks), 2):
        axes.axhspan(place - 0.5, place + 0.5, color=FAINT, alpha=0.28, linewidth=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


def _published(axes: Axes, tasks: list[ComparedTask]) -> None:
    """The authors' folds as a bar over the row, other published numbers as short strokes."""
    others = [
        (number.value, place)
        for place, task in enumerate(tasks)
        for number in task.published
        if number.source.ranked and not number.folds
    ]
    if others:
        _strokes(axes, others, OTHERS, size=9, width=1.0, color=MUTED)
    folds = [(place, list(task.authors_folds.values())) for place, task in enumerate(tasks)]
    authors = [(*interval(values), place) for place, values in folds if values]
    for mean, half, place in authors:
        axes.barh(place, 2 * (half or 0), 0.84, left=mean - (half or 0), color=INK, alpha=0.13, linewidth=0, zorder=1)
    if authors:
        _strokes(axes, [(mean, place) for mean, _, place in authors], AUTHORS, size=15, width=1.6, color=INK)


def _strokes(axes: Axes, points: list[tuple[float, int]], label: str, *, size: float, width: float, color: str) -> None:
    x, y = zip(*points, strict=True)
    axes.plot(x, y, "|", markersize=size, markeredgewidth=width, color=color, label=label)


def _arm(axes: Axes, arm: str, number: int, arms: int, results: list[TaskResults | None]) -> None:
    """The means of one arm with their intervals, or else folds; hollow where the rows are not the official ones."""
    offset = SPREAD * (number / (arms - 1) - 0.5) if arms > 1 else 0.0
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    for place, result in enumerate(results):
        if result is None or not (mean := result.mean()):
            continue
        (x, _), y, span = mean, place + offset, _span(result)
        if span is None:
            dots = _dots(result)
            axes.plot(dots, [y] * len(dots), ".", color=colour, markersize=4, alpha=0.7, zorder=3)
        else:
            for (inner, outer), arrow in zip(span, "<>", strict=True):
                axes.plot([x, inner], [y, y], color=colour, linewidth=1.3, zorder=3)
                if inner != outer:
                    axes.plot(inner, y, arrow, color=colour, markersize=5, zorder=3)
        face = colour if result.shortfall is None else "white"
        axes.plot(x, y, marker, color=colour, markersize=4.6, markerfacecolor=face, label=arm, zorder=4)


def _span(result: TaskResults) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """The lower and the upper end of the interval, each cut to what the metric can be, and as it is."""
    mean = result.mean()
    if mean is None or mean[1] is None:
        return None
    low, high = mean[0] - mean[1], mean[0] + mean[1]
    return (max(low, METRICS[result.task.metric].minimum), low), (min(high, 1.0), high)


def _dots(result: TaskResults) -> list[float]:
    """The folds that are drawn one by one; none where there is an interval, or no more to see than their mean."""
    folds = list(result.values().values())
    return [] if _span(result) or len(set(folds)) == 1 else folds


def _notes(results: Sequence[TaskResults]) -> str:
    """What a reader of the panel with these results must know, under its axis."""
    spans = [_span(result) for result in results]
    told = {
        "hollow: not on the rows of the published numbers": any(result.shortfall for result in results),
        "dots: single folds, too few for an interval": any(_dots(result) for result in results),
        "arrow: cut where the metric ends": any(inner != outer for span in spans if span for inner, outer in span),
    }
    return "; ".join(words for words, is_so in told.items() if is_so)
