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
    """Scale the losses of a micro-step so that DeepSpeed accumulates the gradient of the global batch.

    DeepSpeed divides gradients by `accumulation` and averages them over ranks. With the scaled losses, the result is
    the gradient of the mean cross-entropy over the target positions of the global batch, plus the weighted gradient of
    the mean ratio loss over micro-steps. This gradient does not depend on how a micro-step is distributed over ranks.

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
