"""Panels about resource usage: throughput, step time, memory, checkpoint stalls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ldarnet.interpret.figures import TRAIN_COLOR, VALID_COLOR, draw_curve, short_number, smooth
from ldarnet.printable import figure_label
from ldarnet.report.drawing import Panel
from ldarnet.report.panels import COLORS, from_zero, legend_above, no_metric, one_axes
from ldarnet.report.run_record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_speed(figure: Figure, run: RunRecord) -> str | None:
    """Draw throughput and, if known, MFU."""
    if not (speed := run.series("bases_per_second")):
        return no_metric("bases_per_second")
    axes = one_axes(figure, "bases per second")
    draw_curve(axes, run.steps, speed[""], TRAIN_COLOR, "throughput")
    from_zero(axes)
    axes.yaxis.set_major_formatter(short_number)
    for values in run.series("mfu").values():
        other = axes.twinx()
        draw_curve(other, run.steps, values, VALID_COLOR, "MFU")
        other.set_ylim(0, 1)
        other.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return None


def draw_time(figure: Figure, run: RunRecord) -> str | None:
    """Draw the duration of each phase of a step, as a fraction of the step time."""
    fractions = run.series("phase_share")
    if not fractions:
        return no_metric("phase_share")
    axes = one_axes(figure, "fraction of step time")
    at = np.concatenate([[0], run.steps]) if len(run.steps) == 1 else run.steps
    rows = [np.resize(values, len(at)) if len(run.steps) == 1 else smooth(values) for values in fractions.values()]
    fills = ("#c4622d", "#e3b57a", "#9cc3e0", "#4a8cc0", "#2f5d88")
    axes.stackplot(at, rows, labels=list(map(figure_label, fractions)), colors=fills)
    axes.set_ylim(0, 1)
    axes.set_xmargin(0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    legend_above(axes, columns=5)
    return None


def draw_memory(figure: Figure, run: RunRecord) -> str | None:
    """Draw the peak memory, as the maximum over all ranks."""
    memory = run.series("memory")
    if not memory:
        return no_metric("memory")
    axes = one_axes(figure, "GiB")
    for number, (name, values) in enumerate(memory.items()):
        label = figure_label({"host": "process", "device": "GPU tensors"}.get(name, name))
        axes.plot(run.steps, values / 2**30, color=COLORS[number % len(COLORS)], linewidth=1.4, label=label)
    from_zero(axes)
    legend_above(axes)
    return None


def draw_stalls(figure: Figure, run: RunRecord) -> str | None:
    """Draw the seconds that training spent waiting for checkpoints."""
    for values in run.series("checkpoint_stall_seconds").values():
        if np.nanmax(values, initial=0) > 0:
            axes = one_axes(figure, "seconds")
            shown = values > 0
            axes.vlines(run.steps[shown], 0, values[shown], color=TRAIN_COLOR, linewidth=2)
            axes.set_xlim(run.steps[0], max(run.steps[-1], run.steps[0] + 1))
            from_zero(axes)
            return None
    return "training never waited for a checkpoint"


PANELS: list[Panel[RunRecord]] = [
    Panel("Throughput", "Sum over all ranks; excludes validation and checkpoints.", draw_speed),
    Panel(
        "Step time",
        "By phase. On GPUs, forward and backward only include kernel launches.",
        draw_time,
    ),
    Panel("Memory", "Peak memory, maximum over ranks.", draw_memory),
    Panel("Checkpoint stalls", "Seconds for which training waited for checkpoints.", draw_stalls),
]
