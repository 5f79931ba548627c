"""Loss of a micro-step, scaled for DeepSpeed's backward pass."""

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
    """Scale a micro-step's losses so that the accumulated, rank-averaged gradient is the gradient of the global batch.

    DeepSpeed divides gradients by `accumulation` and averages them over ranks. The scale compensates for both: the
    cross-entropy is normalized by the number of targets in the global batch, and the ratio loss is averaged over
    micro-steps, so that neither depends on how the batch is distributed over ranks.

    Args:
        nll: scalar, cross-entropy in nats, summed over the target positions of this rank and micro-step.
        count: number of target positions in the global batch (all micro-steps, all ranks).
        accumulation: micro-steps per optimizer step.
        world: the process group.
        ratio_loss: scalar, ratio loss of this micro-step over all ranks; None to train without a ratio loss.
        ratio_weight: weight of the ratio loss.
    """
    loss = accumulation * nll / max(count, 1)
    if ratio_loss is not None:
        loss = loss + ratio_weight * ratio_loss.float()
    return world.size * loss
