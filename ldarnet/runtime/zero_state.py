"""Gather and restore fp32 weights and Adam moments by parameter name, for any ZeRO stage and number of ranks.

DeepSpeed flattens and partitions weights and moments. State gathered with one ZeRO stage and number of ranks can be
restored with any other ZeRO stage and number of ranks.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ldarnet.runtime.checkpoint_files import moments_of
from ldarnet.runtime.deepspeed_internals import (
    MOMENTS,
    flat_partitions,
    link_optimizer_states,
    local_moment,
    whole_shape,
    whole_tensor,
)
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import Engine, EngineOptions


def engine_from_checkpoint(
    model: nn.Module, groups: list[dict], options: EngineOptions, world: World, checkpoint: Path | None, updates: int
) -> Engine:
    """Create an engine; restore the optimizer state of a checkpoint, if one is given.

    Args:
        model: model with its initial weights; if `checkpoint` is given, with the weights of the checkpoint.
        groups: parameter groups for AdamW.
        options: training options.
        world: the process group.
        checkpoint: checkpoint folder; None for a new optimizer state.
        updates: Adam's step count in the checkpoint: the number of optimizer steps that were not skipped.

    Raises:
        UserError: the moments in the checkpoint are damaged, not finite or of another shape; raised on all ranks.
    """
    engine = Engine(model, groups, options, world)
    prepare_optimizer_state(engine)
    if checkpoint is not None:
        with world.together(), moments_of(checkpoint) as moments:
            restore_optimizer_state(engine, moments, updates)
    return engine


def prepare_optimizer_state(engine: Engine) -> None:
    """Create Adam moments filled with zeros; torch creates them only in the first step, too late to restore them."""
    optimizer = engine.deepspeed.optimizer
    if engine.options.zero_stage == 0:
        flats = list(engine.model.parameters())
        inner = optimizer
    else:
        flats, inner = flat_partitions(optimizer), optimizer.optimizer
    for flat in flats:
        device = flat.device if inner.defaults.get("fused") else "cpu"
        inner.state[flat] = {
            "step": torch.zeros((), dtype=torch.float32, device=device),
            **{moment: torch.zeros_like(flat, requires_grad=False) for moment in MOMENTS},
        }
    link_optimizer_states(optimizer)


def restore_optimizer_state(engine: Engine, moments: Callable[[str, torch.Size], Tensor], steps: int) -> None:
    """Restore Adam's moments and step count.

    Args:
        engine: engine after `prepare_optimizer_state`.
        moments: function that reads one unpartitioned moment; see `moments_of`.
        steps: Adam's step count, which is the number of optimizer steps that were not skipped.
    """
    for name, parameter in engine.model.named_parameters():
        for moment in MOMENTS:
            whole = moments(f"{moment}.{name}", whole_shape(parameter)).flatten()
            for target, start in local_moment(engine.deepspeed.optimizer, engine.options.zero_stage, parameter, moment):
                piece = whole[start : start + target.numel()].to(target.device)
                target[: piece.numel()].copy_(piece)
    inner = engine.deepspeed.optimizer
    for state in getattr(inner, "optimizer", inner).state.values():
        state["step"].fill_(steps)


def whole_parameters(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, unpartitioned fp32 parameter); every rank must exhaust the iterator."""
    for name, parameter in engine.model.named_parameters():
        # In stages 0 to 2, every rank has the whole fp32 parameter, which is equal to the optimizer's copy.
        stage = engine.options.zero_stage
        yield name, whole_tensor(engine.deepspeed.optimizer, 3, parameter, None) if stage == 3 else parameter


def whole_moments(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    """Yield (`<moment>.<parameter name>`, unpartitioned moment); every rank must exhaust the iterator."""
    for name, parameter in engine.model.named_parameters():
        for moment in MOMENTS:
            optimizer, stage = engine.deepspeed.optimizer, engine.options.zero_stage
            yield f"{moment}.{name}", whole_tensor(optimizer, stage, parameter, moment)
