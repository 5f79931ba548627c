"""Pictures of what the routers of a run do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ldarnet.interpret.boundaries import BASE_COLOURS, Track, draw_boundaries
from ldarnet.interpret.figures import INK, VALID_COLOUR, short_number
from ldarnet.report.panels import COLOURS, DASHED, Panel, curve, legend_above, one_axes
from ldarnet.report.run_record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_SAMPLED = 160
"""Bases of the sampled stretch that are drawn over all validations."""
NOTABLE_GRID = 0.3
"""Periodicity from which on its period is told; below it is chance."""


def draw_samples(figure: Figure, run: RunRecord) -> bool:
    """Boundaries along one stretch at every validation: how the chunks of the model came about."""
    if not run.samples:
        return False
    last = run.samples[-1]
    lines = [line for line in run.samples if (line["contig"], line["start"]) == (last["contig"], last["start"])]
    rows = np.array([line["probability"][:MOST_SAMPLED] for line in lines]) / 100
    axes = figure.subplots()
    image = axes.imshow(rows, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest", origin="lower")
    axes.set_ylabel("validation at step")
    count = min(8, len(lines))
    ticks = np.unique(np.linspace(0, len(lines) - 1, count).round().astype(int))
    axes.set_yticks(ticks, [short_number(lines[tick]["step"]) for tick in ticks])
    tens = [place for place in range(rows.shape[1]) if (last["start"] + place + 1) % 10 == 0]
    axes.set_xticks(
        tens, [f"{last['start'] + place + 1:,}" if number % 2 == 0 else "" for number, place in enumerate(tens)]
    )
    axes.set_xlabel(f"position on {last['contig']}")
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=16, ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    return True


def draw_last_sample(figure: Figure, run: RunRecord) -> bool:
    """The chunks of the last validation, base by base."""
    if not run.samples:
        return False
    last = run.samples[-1]
    tracks: list[Track] = []
    for places in last["boundaries"]:
        mask = np.zeros(len(last["bases"]), dtype=bool)
        mask[places] = True
        tracks.append((np.array(last["probability"]) / 100, mask))
    draw_boundaries(figure, last["bases"], tracks, last["start"])
    return True


def draw_histogram(figure: Figure, run: RunRecord) -> bool:
    """How certain the routers are: the distribution of boundary probabilities over time."""
    from matplotlib.colors import PowerNorm

    lines = [line for line in run.train if line.get("boundary_histogram")]
    if not lines:
        return False
    all_axes = figure.subplots(run.stages, 1, sharex=True, squeeze=False)[:, 0]
    for stage, axes in enumerate(all_axes):
        shares = np.array([line["boundary_histogram"][stage] for line in lines]).T
        edges = np.linspace(0, 1, len(shares) + 1)
        at = np.array([line["step"] for line in lines])
        borders = np.concatenate([[at[0] - 0.5], (at[1:] + at[:-1]) / 2, [at[-1] + 0.5]])
        mesh = axes.pcolormesh(
            borders, edges, shares, cmap="Blues", norm=PowerNorm(0.5, 0, shares.max()), rasterized=True
        )
        axes.axhline(0.5, color=VALID_COLOUR, linewidth=0.8, linestyle=DASHED)
        axes.set_ylabel("boundary\nprobability" if run.stages == 1 else f"stage {stage}")
        axes.xaxis.set_major_formatter(short_number)
        bar = figure.colorbar(mesh, ax=axes, pad=0.02, aspect=12, format=lambda value, _: f"{value:.0%}")
        bar.outline.set_visible(False)
    all_axes[-1].set_xlabel("step")
    return True


def draw_tokens(figure: Figure, run: RunRecord) -> bool:
    """How often a chunk begins at each base."""
    rates = run.series("boundary_rate")
    if not rates:
        return False
    axes = one_axes(figure, "boundaries a position")
    colours = BASE_COLOURS | {"MASK": INK}
    for name, values in rates.items():
        if name != "N":
            curve(axes, run.steps, values, colours[name], "[MASK]" if name == "MASK" else name)
    axes.set_ylim(0, 1)
    legend_above(axes)
    return True


def draw_periodicity(figure: Figure, run: RunRecord) -> bool:
    """Whether boundaries stand in a grid."""
    if not run.stages or "periodicity" not in run.last:
        return False
    axes = one_axes(figure, "periodicity")
    for stage, (name, values) in enumerate(run.series("periodicity").items()):
        strong = values[-1] > NOTABLE_GRID
        label = f"{name}, every {run.last['period'][stage]} positions" if strong else name
        curve(axes, run.steps, values, COLOURS[stage], label)
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1)
    legend_above(axes)
    return True


def draw_balance(figure: Figure, run: RunRecord) -> bool:
    """How unevenly chunks are dealt to ranks."""
    imbalance = run.series("chunk_imbalance")
    if not imbalance or all(start["ranks"] == 1 for start in run.starts):
        return False
    axes = one_axes(figure, "most / mean")
    for stage, (name, values) in enumerate(imbalance.items()):
        curve(axes, run.steps, values, COLOURS[stage], name)
    axes.set_ylim(1, None)
    legend_above(axes)
    return True


PANELS = [
    Panel(
        "Boundaries in the making",
        "Boundary probability along one held-out stretch, validation by validation.",
        draw_samples,
        wide=True,
    ),
    Panel(
        "Chunks at the last validation",
        "Each box is a chunk; above it the probability that one begins there.",
        draw_last_sample,
        wide=True,
        height=5.6,
    ),
    Panel(
        "Certainty",
        "Share of positions by boundary probability; above the line a chunk begins.",
        draw_histogram,
    ),
    Panel("Where chunks begin", "Boundaries a position, by what stands there.", draw_tokens),
    Panel("Grid", "0: spaced as by chance; 1: at fixed distances.", draw_periodicity),
    Panel("Balance over ranks", "Chunks of the rank with most over the mean.", draw_balance),
]
