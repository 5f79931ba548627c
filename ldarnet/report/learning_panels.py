"""Panels about learning: loss, compression, regions, learning rate, gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ldarnet.interpret.figures import INK, draw_curve, plot_compression, plot_loss, smooth
from ldarnet.report.panels import COLORS, Panel, from_zero, legend_above, one_axes, styled
from ldarnet.report.run_record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_loss(figure: Figure, run: RunRecord) -> bool:
    """Draw training and validation loss."""
    axes = one_axes(figure, "nats per target position")
    mlm_loss, mask_loss = (
        run.series(key, split="valid").get("", np.full(len(run.valid), np.nan)) for key in ("mlm_loss", "mask_loss")
    )
    baseline = run.valid[-1].get("composition_loss") if run.valid else None
    training = run.series("mlm_loss")[""]
    plot_loss(axes, run.steps, training, run.valid_steps, mlm_loss, mask_loss, baseline=baseline)
    legend_above(axes)
    return True


def draw_compression(figure: Figure, run: RunRecord) -> bool:
    """Draw bases per chunk and the target of the ratio loss."""
    if not run.stages:
        return False
    axes = one_axes(figure, "bases per chunk")
    training, validation = (list(run.series("bases_per_chunk", split=split).values()) for split in ("train", "valid"))
    plot_compression(axes, run.steps, training, run.valid_steps, validation, run.series("target_ratio").get(""))
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
    draw_curve(axes, run.steps, run.series("gradient_norm")[""], INK, "global")
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
    Panel(
        "Compression",
        "Bases per chunk of each stage on masked input (ldarnet tokenize reads unmasked sequence), log scale.",
        draw_compression,
    ),
    Panel("Learning rate", "Learning rate of each stage of the hierarchy.", draw_lr),
    Panel("By region", "Validation metrics within each region of validation.regions.", draw_regions, wide=True),
    Panel("Gradient norm", "Norm before clipping: global, and of each module.", draw_gradients, wide=True),
]
