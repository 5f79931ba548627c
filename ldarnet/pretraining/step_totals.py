"""Loss of a pretraining step, and the sums from which its training line in metrics.jsonl is computed."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ldarnet.model import LDARNetConfig
from ldarnet.model.losses import batch_ratio_loss, cross_entropy_by_window
from ldarnet.ops import to_host
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import Engine
from ldarnet.runtime.micro_step import micro_step_loss
from ldarnet.runtime.router_metrics import RouterCounts


@dataclass
class StepTotals:
    """Losses and router statistics over the micro-steps of one optimizer step.

    `nll`, `ratio` and `stages` are float64; `windows` has the dtype of the logits.

    Attributes:
        nll: scalar, cross-entropy summed over the local target positions.
        windows: (windows,), summed cross-entropy of each local window, in the order of the micro-steps.
        ratio: scalar, ratio loss averaged over micro-steps; identical on all ranks.
        stages: (stages with a router, 5), all-reduced; columns `TOTALS` of :mod:`ldarnet.model.boundaries`.
        router: local router counts; None unless the step is logged and the model has routers.
    """

    nll: Tensor
    windows: Tensor
    ratio: Tensor
    stages: Tensor
    router: RouterCounts | None = None

    @classmethod
    def of(cls, parts: list["StepTotals"]) -> "StepTotals":
        """Combine the totals of all micro-steps of an optimizer step."""
        nll, ratio, stages = (
            torch.stack([getattr(part, name) for part in parts]).sum(0) for name in ("nll", "ratio", "stages")
        )
        windows = torch.cat([part.windows for part in parts])
        return cls(nll, windows, ratio, stages, RouterCounts.of_step([part.router for part in parts if part.router]))


@dataclass(frozen=True)
class LoggedValues:
    """Values of a logged step on the host; tensors are float64.

    Attributes:
        nll: cross-entropy summed over the target positions of all ranks.
        ratio: ratio loss averaged over micro-steps.
        stages: see `StepTotals.stages`.
        norm: global gradient norm before clipping.
        squares: squared gradient norm of each module, see `GradientParts.norms`.
        guard: see `Guard.pending_numbers`.
        router: all-reduced router counts; None for a model without routers.
    """

    nll: float
    ratio: float
    stages: Tensor
    norm: float
    squares: Tensor
    guard: Tensor
    router: RouterCounts | None

    @classmethod
    def of(cls, totals: StepTotals, norm: Tensor | float, engine: Engine, world: World) -> "LoggedValues":
        """Copy the values to the host in a single transfer; every rank must call this function.

        Args:
            totals: totals of the step; `nll` is already all-reduced.
            norm: global gradient norm before clipping.
            engine: the DeepSpeed engine, after its update.
            world: the ranks.
        """
        counts = totals.router.all_reduced(world).tensors() if totals.router else []
        squares, guard = engine.gradients.take_squares(), engine.guard.pending_numbers()
        tensors = [totals.nll, totals.ratio, totals.stages, norm, squares, guard, *counts]
        nll, ratio, stages, norm, squares, guard, *counts = to_host(tensors, world.device)
        router = RouterCounts(*counts) if counts else None
        return cls(float(nll), float(ratio), stages, float(norm), squares, guard, router)


def pretraining_loss(
    output: Any, labels: Tensor, *, scored: int, accumulation: int, target: float, config: LDARNetConfig, world: World
) -> tuple[Tensor, StepTotals]:
    """Compute the loss of a micro-step, to be passed to `Engine.backward`, and its totals.

    Args:
        output: model output with `logits` and `boundaries`.
        labels: (B, L), true base at target positions, otherwise -100.
        scored: number of target positions in the global batch.
        accumulation: micro-steps per optimizer step.
        target: target of the ratio loss, in positions per chunk.
        config: model configuration, with the weight and the form of the ratio loss.
        world: the ranks.
    """
    windows = cross_entropy_by_window(output.logits, labels)
    nll = windows.sum()
    ratio, stages = batch_ratio_loss(
        output.boundaries,
        target,
        form=config.ratio_loss,
        sum_over_ranks=world.sum_on_device,
        dtype=torch.float64,
    )
    weight = config.ratio_weight
    loss = micro_step_loss(nll, scored, accumulation=accumulation, world=world, ratio_loss=ratio, ratio_weight=weight)
    return loss, StepTotals(nll.detach().double(), windows.detach(), ratio.detach() / accumulation, stages)
