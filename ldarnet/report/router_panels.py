"""Panels about routers: boundaries, certainty, periodicity, load balance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ldarnet.interpret.boundaries import BASE_COLORS, Track, draw_boundaries
from ldarnet.interpret.figures import DASHED, INK, VALID_COLOR, draw_curve, short_number
from ldarnet.report.panels import COLORS, Panel, legend_above, one_axes
from ldarnet.report.run_record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MAX_SAMPLE_BASES = 160
"""Number of bases to draw from the start of the sampled window."""
NOTABLE_GRID = 0.3
"""Label the period if the periodicity is above this value; lower values occur by chance."""


def draw_samples(figure: Figure, run: RunRecord) -> bool:
    """Draw boundary probabilities along the sampled window at every validation."""
    if not run.samples:
        return False
    last = run.samples[-1]
    lines = [line for line in run.samples if (line["contig"], line["start"]) == (last["contig"], last["start"])]
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
    axes.set_xlabel(f"position on {last['contig']}")
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=16, ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    return True


def draw_last_sample(figure: Figure, run: RunRecord) -> bool:
    """Draw the chunks along the sampled window at the last validation, base by base."""
    if not run.samples:
        return False
    last = run.samples[-1]
    tracks: list[Track] = []
    for boundaries in last["boundaries"]:
        mask = np.zeros(len(last["bases"]), dtype=bool)
        mask[boundaries] = True
        tracks.append((np.array(last["probability"]) / 100, mask))
    draw_boundaries(figure, last["bases"], tracks, last["start"])
    return True


def draw_histogram(figure: Figure, run: RunRecord) -> bool:
    """Draw a histogram of boundary probabilities at each training step, as a heat map."""
    from matplotlib.colors import PowerNorm

    lines = [line for line in run.train if line.get("boundary_histogram")]
    if not lines:
        return False
    all_axes = figure.subplots(run.stages, 1, sharex=True, squeeze=False)[:, 0]
    for stage, axes in enumerate(all_axes):
        fractions = np.array([line["boundary_histogram"][stage] for line in lines]).T
        edges = np.linspace(0, 1, len(fractions) + 1)
        at = np.array([line["step"] for line in lines])
        borders = np.concatenate([[at[0] - 0.5], (at[1:] + at[:-1]) / 2, [at[-1] + 0.5]])
        mesh = axes.pcolormesh(
            borders, edges, fractions, cmap="Blues", norm=PowerNorm(0.5, 0, fractions.max()), rasterized=True
        )
        axes.axhline(0.5, color=VALID_COLOR, linewidth=0.8, linestyle=DASHED)
        axes.set_ylabel("boundary\nprobability" if run.stages == 1 else f"stage {stage}")
        axes.xaxis.set_major_formatter(short_number)
        bar = figure.colorbar(mesh, ax=axes, pad=0.02, aspect=12, format=lambda value, _: f"{value:.0%}")
        bar.outline.set_visible(False)
    all_axes[-1].set_xlabel("step")
    return True


def draw_tokens(figure: Figure, run: RunRecord) -> bool:
    """Draw the boundary rate at each input token (A, C, G, T, [MASK])."""
    rates = run.series("boundary_rate")
    if not rates:
        return False
    axes = one_axes(figure, "boundaries per position")
    colors = BASE_COLORS | {"MASK": INK}
    for name, values in rates.items():
        if name != "N":
            draw_curve(axes, run.steps, values, colors[name], "[MASK]" if name == "MASK" else name)
    axes.set_ylim(0, 1)
    legend_above(axes)
    return True


def draw_periodicity(figure: Figure, run: RunRecord) -> bool:
    """Draw the periodicity of boundaries at each training step."""
    if not run.stages or "periodicity" not in run.last:
        return False
    axes = one_axes(figure, "periodicity")
    for stage, (name, values) in enumerate(run.series("periodicity").items()):
        strong = values[-1] > NOTABLE_GRID
        label = f"{name}, every {run.last['period'][stage]} positions" if strong else name
        draw_curve(axes, run.steps, values, COLORS[stage], label)
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1)
    legend_above(axes)
    return True


def draw_balance(figure: Figure, run: RunRecord) -> bool:
    """Draw the load imbalance: maximum over mean number of chunks per rank."""
    imbalance = run.series("chunk_imbalance")
    if not imbalance or all(launch["ranks"] == 1 for launch in run.launches):
        return False
    axes = one_axes(figure, "maximum / mean")
    for stage, (name, values) in enumerate(imbalance.items()):
        draw_curve(axes, run.steps, values, COLORS[stage], name)
    axes.set_ylim(1, None)
    legend_above(axes)
    return True


PANELS = [
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
