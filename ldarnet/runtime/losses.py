"""The two losses of a step, each over all ranks, and the sums that a log line is made of.

The MLM loss is the summed cross-entropy over the number of scored bases in the whole global batch. The ratio loss takes
the share of boundaries F and the mean probability G over all ranks of a micro-step, and is averaged over micro-steps.
So neither depends on how windows are dealt to ranks.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ldarnet.model.modeling import cross_entropy_by_window
from ldarnet.model.router import ratio_loss
from ldarnet.runtime.distributed import World
from ldarnet.runtime.router_metrics import RouterCounts


@dataclass
class StepTotals:
    """Sums over the micro-steps of one step, kept on the device in float64.

    Attributes:
        nll: (), summed cross-entropy of this rank's scored bases.
        windows: (windows,), the same by window of this rank, in the order of the micro-steps.
        ratio: (), mean ratio loss of the micro-steps, the same on all ranks.
        stages: (stages, 3), boundaries, summed probability and positions by stage, over all ranks; the innermost
            stage has none, so a model without chunking has (0, 3).
        router: what this rank's routers did, in a step that is looked at and for a model that has any.
    """

    nll: Tensor
    windows: Tensor
    ratio: Tensor
    stages: Tensor
    router: RouterCounts | None = None

    @classmethod
    def of(cls, parts: list["StepTotals"]) -> "StepTotals":
        """The totals of a step from those of its micro-steps."""
        nll, ratio, stages = (
            torch.stack([getattr(part, name) for part in parts]).sum(0) for name in ("nll", "ratio", "stages")
        )
        windows = torch.cat([part.windows for part in parts])
        return cls(nll, windows, ratio, stages, RouterCounts.of_step([part.router for part in parts if part.router]))


def ratio_over_ranks(boundaries: tuple[Any, ...], target: float, world: World) -> tuple[Tensor, Tensor]:
    """The ratio loss, summed over stages, of one micro-step's windows on all ranks.

    The value is the same on every rank; the gradient is that of this rank's own probabilities, so the sum of the
    ranks' gradients is the gradient of the loss.

    Returns:
        The loss, (), and the totals over ranks, (stages, 3): boundaries, summed probability, positions.
    """
    if not boundaries:
        return torch.zeros((), dtype=torch.float64, device=world.device), torch.zeros(0, 3, device=world.device)
    own = torch.stack([torch.stack([part.double() for part in stage.totals()]) for stage in boundaries])
    totals = world.sum_on_device(own.detach().clone())
    number, _, positions = totals.unbind(1)
    probability = own[:, 1] + (totals - own.detach())[:, 1]
    return ratio_loss(number / positions, probability / positions, target).sum(), totals


def micro_step_loss(
    output: Any, labels: Tensor, *, scored: int, accumulation: int, target: float, weight: float, world: World
) -> tuple[Tensor, StepTotals]:
    """What to give to the engine's backward for one micro-step.

    DeepSpeed divides by accumulation and averages over ranks; the factors undo what would not be a mean.

    Args:
        output: the model's output, with `logits` and `boundaries`.
        labels: (B, L), -100 where not scored.
        scored: scored bases of the whole global batch.
        accumulation: micro-steps per optimiser step.
        target: bases per chunk that the ratio loss aims at.
        weight: weight of the ratio loss.
        world: the ranks.
    """
    windows = cross_entropy_by_window(output.logits, labels)
    nll = windows.sum()
    ratio, stages = ratio_over_ranks(output.boundaries, target, world)
    loss = world.size * (accumulation * nll / max(scored, 1) + weight * ratio.float())
    return loss, StepTotals(nll.detach().double(), windows.detach(), ratio.detach() / accumulation, stages)
