"""Panels about learning: loss, compression, regions, learning rate, gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ldarnet.interpret.figures import INK, draw_curve, drawable, log_scale, plot_compression, plot_loss, smooth
from ldarnet.io.run_lines import NEXT_BASE_LOSS
from ldarnet.printable import figure_label
from ldarnet.report.drawing import Panel
from ldarnet.report.panels import COLORS, NO_ROUTER, from_zero, legend_above, no_metric, one_axes, styled
from ldarnet.report.run_record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_loss(figure: Figure, run: RunRecord) -> str | None:
    """Draw training and validation loss."""
    causal = run.loss_name == NEXT_BASE_LOSS
    axes = one_axes(figure, "nats per base" if causal else "nats per target position")
    valid_loss, mask_loss = (
        run.series(key, split="valid").get("", np.full(len(run.valid), np.nan)) for key in (run.loss_name, "mask_loss")
    )
    baseline = run.valid[-1].get("composition_loss") if run.valid else None
    training = run.series(run.loss_name).get("", np.full(len(run.train), np.nan))
    plot_loss(axes, run.steps, training, run.valid_steps, valid_loss, mask_loss, baseline=baseline)
    legend_above(axes)
    return None


def draw_compression(figure: Figure, run: RunRecord) -> str | None:
    """Draw bases per chunk and the target of the ratio loss."""
    if not run.stages:
        return NO_ROUTER
    axes = one_axes(figure, "bases per chunk")
    training, validation = (list(run.series("bases_per_chunk", split=split).values()) for split in ("train", "valid"))
    plot_compression(axes, run.steps, training, run.valid_steps, validation, run.series("target_ratio").get(""))
    legend_above(axes)
    return None


def draw_regions(figure: Figure, run: RunRecord) -> str | None:
    """Draw validation loss and bases per chunk of the outermost stage, by region."""
    lines = [line for line in run.valid if line.get("regions")]
    if not lines:
        return "validation.regions is not set" if run.valid else "no validation yet"
    at, names = [line["step"] for line in lines], list(lines[-1]["regions"])
    panels = figure.subplots(1, 1 + (run.stages > 0), squeeze=False)[0]
    shown = ((run.loss_name, "loss"), ("bases_per_chunk", "bases per chunk"))
    for axes, (key, label) in zip(panels, shown, strict=False):
        styled(axes, label)
        for number, name in enumerate(names):
            values = drawable(np.array([_first(line["regions"].get(name, {}).get(key)) for line in lines]))
            color = COLORS[number % len(COLORS)]
            axes.plot(at, values, color=color, marker="o", markersize=3, label=figure_label(name))
    legend_above(panels[0])
    return None


def _first(value: Any) -> float:
    """Return `value`, or its first item if it is a list with one item per stage; NaN if missing."""
    value = value[0] if isinstance(value, list) and value else value
    return np.nan if value is None or isinstance(value, list) else value


def draw_gradients(figure: Figure, run: RunRecord) -> str | None:
    """Draw the global gradient norm and the gradient norm of each module."""
    if not (norms := run.series("gradient_norm")):
        return no_metric("gradient_norm")
    axes = one_axes(figure, "norm")
    draw_curve(axes, run.steps, norms[""], INK, "global")
    for number, (name, values) in enumerate(run.series("gradient_norms").items()):
        axes.plot(
            run.steps, smooth(values), color=COLORS[number % len(COLORS)], linewidth=1.1, label=figure_label(name)
        )
    log_scale(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05))
    return None


def draw_lr(figure: Figure, run: RunRecord) -> str | None:
    """Draw the learning rate of each stage; all parameter groups of a stage have the same learning rate."""
    if not (rates := run.series("lr")):
        return no_metric("lr")
    axes = one_axes(figure, "learning rate")
    stages = {}
    for name, values in rates.items():
        stages.setdefault(name.partition("/")[0], values)
    for number, (name, values) in enumerate(stages.items()):
        label = figure_label(name.replace("stage", "stage "))
        axes.plot(run.steps, values, color=COLORS[number % len(COLORS)], linewidth=1.4, label=label)
    from_zero(axes)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
    legend_above(axes)
    return None


PANELS: list[Panel[RunRecord]] = [
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
