"""The loss of a micro-step as DeepSpeed's backward expects it."""

from torch import Tensor

from ldarnet.runtime.distributed import World


def micro_step_loss(
    nll: Tensor,
    count: int,
    *,
    accumulation: int,
    world: World,
    ratio_loss: Tensor | None = None,
    ratio_weight: float = 0.0,
) -> Tensor:
    """Scale a micro-step's losses so that the accumulated, rank-averaged gradient is that of the global batch.

    DeepSpeed divides gradients by `accumulation` and averages them over ranks. The cross-entropy is instead normalized
    by the number of targets in the global batch, and the ratio loss averaged over micro-steps, so that neither depends
    on how the batch is distributed over ranks.

    Args:
        nll: summed cross-entropy of the local targets, ().
        count: targets of the global batch: all micro-steps, all ranks.
        accumulation: micro-steps per optimizer step.
        world: the ranks.
        ratio_loss: of this micro-step over all ranks, (); by default, left out.
        ratio_weight: its weight.
    """
    loss = accumulation * nll / max(count, 1)
    if ratio_loss is not None:
        loss = loss + ratio_weight * ratio_loss.float()
    return world.size * loss
