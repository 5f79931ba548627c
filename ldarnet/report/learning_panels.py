"""Panels about learning: loss, compression, regions, learning rate, gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ldarnet.interpret.figures import INK, MASK_COLOR, MAX_MARKERS, TRAIN_COLOR, VALID_COLOR, powers_of_two, smooth
from ldarnet.report.panels import (
    COLORS,
    DASHED,
    Panel,
    curve,
    from_zero,
    legend_above,
    one_axes,
    styled,
)
from ldarnet.report.run_record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_loss(figure: Figure, run: RunRecord) -> bool:
    """Draw training and validation loss."""
    axes = one_axes(figure, "nats per target position")
    values = run.series("mlm_loss")[""]
    curve(axes, run.steps, values, TRAIN_COLOR, "training")
    at = [line["step"] for line in run.valid]
    levels = [np.nanquantile(values, 0.98 if len(values) > MAX_MARKERS else 1.0)]
    for key, color, label in (
        ("mlm_loss", VALID_COLOR, "validation"),
        ("mask_loss", MASK_COLOR, "validation, masked positions"),
    ):
        for found in run.series(key, split="valid").values():
            axes.plot(at, found, color=color, marker="o", markersize=3.5, linewidth=1.2, label=label, zorder=3)
            levels.append(np.nanmax(found))
    if run.valid and (entropy := run.valid[-1].get("composition_loss")) is not None:
        axes.axhline(entropy, color=INK, linestyle=DASHED, linewidth=1.0, label="unigram baseline")
        levels.append(entropy)
    low, high = axes.get_ylim()
    axes.set_ylim(low, min(high, max(levels) + 0.05 * (max(levels) - low)))
    legend_above(axes)
    return True


def draw_compression(figure: Figure, run: RunRecord) -> bool:
    """Draw bases per chunk and the target of the ratio loss."""
    if not run.stages:
        return False
    axes = one_axes(figure, "bases per chunk")
    targets = run.series("target_ratio").get("")
    validated = run.series("bases_per_chunk", split="valid")
    for stage, (name, values) in enumerate(run.series("bases_per_chunk").items()):
        curve(axes, run.steps, values, COLORS[stage], name if run.stages > 1 else "training")
        if name in validated:
            at = [line["step"] for line in run.valid]
            label = "validation" if stage == 0 else None
            axes.plot(at, validated[name], "o", color=COLORS[stage], markersize=3.5, mfc="white", label=label, zorder=3)
        if targets is not None:
            label = "target" if stage == 0 else None
            axes.plot(run.steps, targets ** (stage + 1), color=INK, linestyle=DASHED, linewidth=1.0, label=label)
    powers_of_two(axes)
    legend_above(axes)
    return True


def draw_regions(figure: Figure, run: RunRecord) -> bool:
    """Draw validation loss and bases per chunk of the outermost stage, by region."""
    lines = [line for line in run.valid if line.get("regions")]
    if not lines:
        return False
    at, names = [line["step"] for line in lines], list(lines[-1]["regions"])
    panels = figure.subplots(1, 1 + (run.stages > 0), squeeze=False)[0]
    for axes, (key, label) in zip(panels, (("mlm_loss", "loss"), ("bases_per_chunk", "bases per chunk")), strict=False):
        styled(axes, label)
        for number, name in enumerate(names):
            values = [np.ravel(line["regions"].get(name, {}).get(key, np.nan))[0] for line in lines]
            # Prefix a space: matplotlib hides labels that start with _ from legends.
            axes.plot(at, values, color=COLORS[number % len(COLORS)], marker="o", markersize=3, label=f" {name}")
    legend_above(panels[0])
    return True


def draw_gradients(figure: Figure, run: RunRecord) -> bool:
    """Draw the global gradient norm and the gradient norm of each module."""
    axes = one_axes(figure, "norm")
    curve(axes, run.steps, run.series("gradient_norm")[""], INK, "global")
    for number, (name, values) in enumerate(run.series("gradient_norms").items()):
        axes.plot(run.steps, smooth(values), color=COLORS[number % len(COLORS)], linewidth=1.1, label=name)
    axes.set_yscale("log")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05))
    return True


def draw_lr(figure: Figure, run: RunRecord) -> bool:
    """Draw the learning rate of each stage; all parameter groups of a stage have the same learning rate."""
    axes = one_axes(figure, "learning rate")
    stages = {}
    for name, values in run.series("lr").items():
        stages.setdefault(name.partition("/")[0], values)
    for number, (name, values) in enumerate(stages.items()):
        axes.plot(run.steps, values, color=COLORS[number], linewidth=1.4, label=name.replace("stage", "stage "))
    from_zero(axes)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
    legend_above(axes)
    return True


PANELS = [
    Panel(
        "Loss",
        "Masked-language-model loss. Faint: logged steps, subsampled in long runs. Solid: moving average.",
        draw_loss,
        wide=True,
        height=2.9,
    ),
    Panel("Compression", "Bases per chunk of each stage, log scale.", draw_compression),
    Panel("Learning rate", "Learning rate of each stage of the hierarchy.", draw_lr),
    Panel("By region", "Validation metrics within each region of validation.regions.", draw_regions, wide=True),
    Panel("Gradient norm", "Norm before clipping: global, and of each module.", draw_gradients, wide=True),
]
