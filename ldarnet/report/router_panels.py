"""Panels about routers: boundaries, certainty, periodicity, load balance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ldarnet.interpret.boundaries import BASE_COLORS, Track, draw_boundaries
from ldarnet.interpret.figures import DASHED, INK, MUTED, VALID_COLOR, draw_curve, drawable, short_number
from ldarnet.io.run_lines import SampleLine, TrainLine
from ldarnet.printable import figure_label
from ldarnet.report.drawing import Panel
from ldarnet.report.panels import COLORS, NO_ROUTER, legend_above, no_metric, one_axes
from ldarnet.report.run_record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MAX_SAMPLE_BASES = 160
"""Number of bases to draw from the start of the sampled window."""
NOTABLE_GRID = 0.3
"""Label the period if the periodicity is above this value; lower values occur by chance."""


def draw_samples(figure: Figure, run: RunRecord) -> str | None:
    """Draw the boundary probabilities along one held-out window, at every validation."""
    if not run.samples:
        return _no_sample(run)
    last = run.samples[-1]
    lines = [line for line in run.samples if _window(line) == _window(last)]
    rows = np.array([line["probability"][:MAX_SAMPLE_BASES] for line in lines]) / 100
    axes = figure.subplots()
    image = axes.imshow(rows, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest", origin="lower")
    axes.set_ylabel("validation at step")
    count = min(8, len(lines))
    ticks = np.unique(np.linspace(0, len(lines) - 1, count).round().astype(int))
    axes.set_yticks(ticks, [short_number(lines[tick]["step"]) for tick in ticks])
    tens = [offset for offset in range(rows.shape[1]) if (last["start"] + offset + 1) % 10 == 0]
    axes.set_xticks(
        tens, [f"{last['start'] + offset + 1:,}" if number % 2 == 0 else "" for number, offset in enumerate(tens)]
    )
    axes.set_xlabel(f"position on {figure_label(last['contig'])}")
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=16, ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    return None


def draw_last_sample(figure: Figure, run: RunRecord) -> str | None:
    """Draw the bases and chunks of one held-out window, at the last validation."""
    if not run.samples:
        return _no_sample(run)
    last = run.samples[-1]
    tracks: list[Track] = []
    for boundaries in last["boundaries"]:
        mask = np.zeros(len(last["bases"]), dtype=bool)
        mask[boundaries] = True
        tracks.append((np.array(last["probability"]) / 100, mask))
    draw_boundaries(figure, last["bases"], tracks, last["start"])
    return None


def draw_histogram(figure: Figure, run: RunRecord) -> str | None:
    """Draw a histogram of boundary probabilities at each logged step, as a heat map."""
    from matplotlib.colors import PowerNorm

    lines = [line for line in run.train if line.get("boundary_histogram")]
    if not lines:
        return no_metric("boundary_histogram") if run.stages else NO_ROUTER
    lines = [line for line in lines if _bins(line) == _bins(lines[-1])]
    all_axes = figure.subplots(run.stages, 1, sharex=True, squeeze=False)[:, 0]
    for stage, axes in enumerate(all_axes):
        fractions = drawable(np.array([line["boundary_histogram"][stage] for line in lines]).T)
        edges = np.linspace(0, 1, len(fractions) + 1)
        at = np.array([line["step"] for line in lines])
        borders = np.concatenate([[at[0] - 0.5], (at[1:] + at[:-1]) / 2, [at[-1] + 0.5]])
        norm = PowerNorm(0.5, 0, np.nanmax(fractions, initial=1e-9))
        mesh = axes.pcolormesh(borders, edges, fractions, cmap="Blues", norm=norm, rasterized=True)
        axes.axhline(0.5, color=VALID_COLOR, linewidth=0.8, linestyle=DASHED)
        axes.set_ylabel("boundary\nprobability" if run.stages == 1 else f"stage {stage}")
        axes.xaxis.set_major_formatter(short_number)
        bar = figure.colorbar(mesh, ax=axes, pad=0.02, aspect=12, format=lambda value, _: f"{value:.0%}")
        bar.outline.set_visible(False)
    all_axes[-1].set_xlabel("step")
    return None


def draw_tokens(figure: Figure, run: RunRecord) -> str | None:
    """Draw the boundary rate for each input token (A, C, G, T, [MASK])."""
    rates = run.series("boundary_rate")
    if not rates:
        return no_metric("boundary_rate") if run.stages else NO_ROUTER
    axes = one_axes(figure, "boundaries per position")
    colors = BASE_COLORS | {"MASK": INK}
    for name, values in rates.items():
        if name != "N":
            draw_curve(
                axes, run.steps, values, colors.get(name, MUTED), "[MASK]" if name == "MASK" else figure_label(name)
            )
    axes.set_ylim(0, 1)
    legend_above(axes)
    return None


def draw_periodicity(figure: Figure, run: RunRecord) -> str | None:
    """Draw the periodicity of boundaries at each logged step."""
    periodicity, periods = run.series("periodicity"), run.last.get("period")
    if not periodicity:
        return no_metric("periodicity") if run.stages else NO_ROUTER
    axes = one_axes(figure, "periodicity")
    for stage, (name, values) in enumerate(periodicity.items()):
        label = name
        if periods and values[-1] > NOTABLE_GRID:
            label += f", every {periods[stage]} positions"
        draw_curve(axes, run.steps, values, COLORS[stage % len(COLORS)], label)
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1)
    legend_above(axes)
    return None


def draw_balance(figure: Figure, run: RunRecord) -> str | None:
    """Draw the load imbalance: the maximum number of chunks per rank divided by the mean."""
    imbalance = run.series("chunk_imbalance")
    if not imbalance:
        return no_metric("chunk_imbalance") if run.stages else NO_ROUTER
    if run.launches and all(launch["ranks"] == 1 for launch in run.launches):
        return "the run has a single rank"
    axes = one_axes(figure, "maximum / mean")
    for stage, (name, values) in enumerate(imbalance.items()):
        draw_curve(axes, run.steps, values, COLORS[stage % len(COLORS)], name)
    axes.set_ylim(1, max(1.01, axes.get_ylim()[1]))
    legend_above(axes)
    return None


def _no_sample(run: RunRecord) -> str:
    return "no validation yet" if run.stages else NO_ROUTER


def _window(line: SampleLine) -> tuple[str, int, int]:
    return line["contig"], line["start"], len(line["bases"])


def _bins(line: TrainLine) -> list[int]:
    return [len(bins) for bins in line.get("boundary_histogram", [])]


PANELS: list[Panel[RunRecord]] = [
    Panel(
        "Boundaries over training",
        "Boundary probability along one unmasked held-out window, at every validation.",
        draw_samples,
        wide=True,
    ),
    Panel(
        "Chunks at the last validation",
        "The same held-out window. Each box is a chunk; bars are boundary probabilities.",
        draw_last_sample,
        wide=True,
        height=5.6,
    ),
    Panel(
        "Certainty",
        "Distribution of boundary probabilities. Positions above the dashed line start a chunk.",
        draw_histogram,
    ),
    Panel("Boundary rate by base", "Fraction of positions with each base (or [MASK]) that start a chunk.", draw_tokens),
    Panel("Periodicity", "Periodicity of boundaries. 0: random spacing; 1: fixed spacing.", draw_periodicity),
    Panel("Balance over ranks", "Maximum number of chunks per rank, divided by the mean.", draw_balance),
]
