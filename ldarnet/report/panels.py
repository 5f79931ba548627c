"""Helpers to draw the panels of training runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldarnet.interpret.figures import FAINT, MUTED, STAGE_COLORS, short_number
from ldarnet.io.run_files import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = (*STAGE_COLORS, "#c9a227", "#8a94a0", "#b5446e", "#4a8f9f", "#7d6b5d", "#9aa84f")
"""Color cycle for panels with many curves."""

NO_ROUTER = "the model has no router"


def no_metric(key: str) -> str:
    """Explain that a panel is empty because no line of metrics.jsonl has the metric `key`."""
    return f"{METRICS} has no {key}"


def one_axes(figure: Figure, label: str) -> Axes:
    """Create axes that fill the figure, with steps on the x axis and `label` on the y axis."""
    axes = figure.subplots()
    styled(axes, label)
    return axes


def styled(axes: Axes, label: str) -> None:
    """Format the x axis for steps, label the y axis with `label`, and draw a grid."""
    axes.set_ylabel(label)
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter(short_number)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def from_zero(axes: Axes) -> None:
    """Start the y axis at 0."""
    axes.set_ylim(0, 1.08 * axes.dataLim.y1 if axes.dataLim.y1 > 0 else 1)


def legend_above(axes: Axes, columns: int = 6) -> None:
    """Place the legend above the axes."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
        ncols=columns,
        columnspacing=1.2,
        handlelength=1.4,
    )
    axes.tick_params(colors=MUTED)
