"""Pretraining tables of the report: losses at equal bases and at equal FLOPs, with the cost of each arm."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ldarnet import markdown
from ldarnet.ablation.differences import ArmDifference, p_text, paired, with_holm
from ldarnet.ablation.links import RunLinks
from ldarnet.ablation.results import NEXT_BASE, AblationResults, ArmResult, Curve
from ldarnet.markdown import escape
from ldarnet.printable import printable

EQUAL_BASES, EQUAL_FLOPS = "equal bases", "equal FLOPs"
Value = Callable[[Curve], float]
Row = dict[str, Any]


def loss_name(loss: str) -> str:
    """Description of a loss: `masks of single bases`, `masks of 6 bases`, or `next base`."""
    if loss == NEXT_BASE:
        return "next base (causal models)"
    span = loss.removeprefix("span")
    return "masks of single bases" if span == "1" else f"masks of {span} bases"


def common_flops(results: AblationResults, loss: str) -> float:
    """Smallest total FLOPs of all finished runs that are comparable with those of a loss."""
    causal = loss == NEXT_BASE
    curves = [curve for arm in results.arms.values() for curve in arm.curves.values()]
    return min(float(curve.flops[-1]) for curve in curves if (NEXT_BASE in curve.losses) == causal)


def values_of(arm: ArmResult, loss: str, value: Value) -> dict[str, float]:
    """Finite values of the finished seeds."""
    found = {seed: value(curve) for seed, curve in arm.curves.items() if loss in curve.losses}
    return {seed: number for seed, number in found.items() if math.isfinite(number)}


def views(results: AblationResults, loss: str) -> dict[str, Value]:
    """The two views of a loss: how to read its value from a curve."""
    flops = common_flops(results, loss)
    return {EQUAL_BASES: lambda curve: curve.final(loss), EQUAL_FLOPS: lambda curve: curve.at_flops(loss, flops)}


def differences(results: AblationResults) -> list[ArmDifference]:
    """Differences in all losses and views; Holm's correction is over the arms of one loss and view."""
    found = []
    for loss in results.losses():
        arms = results.with_loss(loss)
        for view, value in views(results, loss).items() if results.reference in arms else ():
            reference = values_of(arms[results.reference], loss, value)
            pairs = {
                name: paired(values_of(arm, loss, value), reference)
                for name, arm in arms.items()
                if name != results.reference
            }
            found += with_holm(
                [ArmDifference(view, loss, name, "bits", pair) for name, pair in pairs.items() if pair is not None]
            )
    return found


def pretraining_section(results: AblationResults, found: list[ArmDifference], links: RunLinks) -> str:
    """Two tables for each loss, one per view."""
    parts = []
    for loss in results.losses():
        flops = common_flops(results, loss)
        unit = "bits per base" if loss == NEXT_BASE else "bits per masked base"
        parts.append(f"### Loss, {loss_name(loss)}")
        for view, value in views(results, loss).items():
            chosen = {one.arm: one for one in found if (one.table, one.quantity) == (view, loss)}
            rows = [
                [
                    *_loss_cells(results, arm, values_of(arm, loss, value), chosen.get(name), links, view),
                    *([_trained(arm, flops)] if view == EQUAL_FLOPS else []),
                    *cost_cells(arm),
                ]
                for name, arm in results.with_loss(loss).items()
            ]
            head = ["arm", "seeds", unit, "difference", "p", "Holm", "detectable"]
            head += [*(["of training"] if view == EQUAL_FLOPS else []), *COST_COLUMNS]
            parts += [_NOTES[view].format(flops=flops), markdown.table(head, rows)]
    return "\n\n".join(parts) or "No run has finished."


_NOTES = {
    EQUAL_BASES: "**Equal bases**: the loss at the end of training.",
    EQUAL_FLOPS: "**Equal FLOPs**: the loss after {flops:.4g} training FLOPs, the smallest total of all runs, "
    "computed from the logged chunk lengths. Losses are interpolated between validations. A run with a larger total is "
    'read before its learning rate has decayed (column "of training"), which counts against it. "later": the first '
    "validation came more than 2% later, so there is no value; validate more often.",
}
COST_COLUMNS = ("parameters", "training MFLOP/base", "bases per chunk", "bases/s", "peak memory", "lr")


def _loss_cells(
    results: AblationResults,
    arm: ArmResult,
    values: dict[str, float],
    difference: ArmDifference | None,
    links: RunLinks,
    view: str,
) -> list[object]:
    numbers = list(values.values())
    cell = "later" if view == EQUAL_FLOPS and arm.finished else "-"
    if numbers:
        spread = f" ± {np.std(numbers, ddof=1):.4f}" if len(numbers) > 1 else ""
        cell = f"{np.mean(numbers):.4f}{spread} "
        cell += links.numbered({one.seed: one.folder for one in arm.finished if one.seed in values})
    return [
        f"**{escape(arm.name)}**" if arm.name == results.reference else escape(arm.name),
        len(numbers),
        cell,
        "reference" if arm.name == results.reference else difference.text if difference else "-",
        p_text(difference.difference.p if difference else None),
        p_text(difference.holm if difference else None),
        difference.detectable if difference else "-",
    ]


def _trained(arm: ArmResult, flops: float) -> str:
    """Share of the FLOPs of an arm, averaged over seeds."""
    shares = [min(1.0, flops / float(curve.flops[-1])) for curve in arm.curves.values()]
    return f"{np.mean(shares):.0%}"


def cost_cells(arm: ArmResult) -> list[str]:
    """Cells of `COST_COLUMNS`: sizes, and measurements averaged over the finished seeds."""
    seeds, record = arm.finished, arm.record
    parameters, lr = record.get("parameters"), record.get("lr")
    spent = [curve.flops[-1] / curve.bases[-1] for curve in arm.curves.values() if curve.bases[-1]]
    return [
        "-" if parameters is None else f"{parameters:,}",
        f"{np.mean(spent) / 1e6:.3f}" if spent else "-",
        _chunks(arm),
        _mean([one.bases_per_second for one in seeds], lambda value: f"{value:,.0f}"),
        _mean([one.memory for one in seeds], lambda value: f"{value / 2**30:.2f} GiB"),
        "-" if lr is None else f"{lr:g}",
    ]


def _chunks(arm: ArmResult) -> str:
    lengths = [one.bases_per_chunk for one in arm.finished if one.bases_per_chunk]
    if lengths:
        return ", ".join(f"{value:.2f}" for value in np.mean(lengths, axis=0))
    per_token = arm.record.get("bases_per_token")
    return f"{per_token:.2f} per token" if per_token is not None and per_token > 1 else "-"


def _mean(values: list[float], text: Callable[[float], str]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return text(float(np.mean(finite))) if finite else "-"


def csv_rows(results: AblationResults, links: RunLinks) -> list[Row]:
    """One row per arm, seed and loss."""
    rows = []
    for loss in results.losses():
        flops = common_flops(results, loss)
        for name, arm in results.with_loss(loss).items():
            for one in arm.finished:
                if one.curve is None or loss not in one.curve.losses:
                    continue
                rows.append(
                    {
                        "arm": printable(name),
                        "seed": one.seed,
                        "loss": loss,
                        "bits_at_equal_bases": one.curve.final(loss),
                        "bits_at_equal_flops": one.curve.at_flops(loss, flops),
                        "bases": int(one.curve.bases[-1]),
                        "flops": float(one.curve.flops[-1]),
                        "parameters": arm.record.get("parameters"),
                        "lr": arm.record.get("lr"),
                        "bases_per_chunk": " ".join(f"{value:.4f}" for value in one.bases_per_chunk),
                        "bases_per_second": one.bases_per_second,
                        "peak_memory_bytes": one.memory,
                        "run": links.url(one.folder),
                    }
                )
    return rows
