"""Gather and restore fp32 weights and moments by parameter name, for any ZeRO stage and number of ranks.

DeepSpeed flattens and partitions weights and moments. State gathered with one ZeRO stage and number of ranks can be
restored with any other ZeRO stage and number of ranks.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ldarnet.runtime.checkpoint_files import moments_of
from ldarnet.runtime.deepspeed_internals import (
    ADAMW_MOMENTS,
    flat_partitions,
    inner_optimizer,
    link_optimizer_states,
    local_fragment,
    whole_shape,
    whole_tensor,
)
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import Engine, EngineOptions
from ldarnet.runtime.muon import MuonAdamW


def engine_from_checkpoint(
    model: nn.Module, groups: list[dict], options: EngineOptions, world: World, checkpoint: Path | None, updates: int
) -> Engine:
    """Create an engine; restore the optimizer state of a checkpoint, if one is given.

    Args:
        model: model with its initial weights; if `checkpoint` is given, with the weights of the checkpoint.
        groups: parameter groups for `build_optimizer`.
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
    """Create moments filled with zeros; torch creates them only in the first step, too late to restore them."""
    optimizer = engine.deepspeed.optimizer
    inner = inner_optimizer(optimizer)
    for flat in engine.model.parameters() if engine.options.zero_stage == 0 else flat_partitions(optimizer):
        keys = moment_keys(engine, flat)
        inner.state[flat] = {key: torch.zeros_like(flat, requires_grad=False) for key in keys}
        if keys == ADAMW_MOMENTS:
            device = flat.device if inner.defaults.get("fused") else "cpu"
            inner.state[flat]["step"] = torch.zeros((), dtype=torch.float32, device=device)
    link_optimizer_states(optimizer)


def restore_optimizer_state(engine: Engine, moments: Callable[[str, torch.Size], Tensor], steps: int) -> None:
    """Restore the moments, and Adam's step count.

    Args:
        engine: engine after `prepare_optimizer_state`.
        moments: function that reads one unpartitioned moment; see `moments_of`.
        steps: Adam's step count, which is the number of optimizer steps that were not skipped.
    """
    inner = inner_optimizer(engine.deepspeed.optimizer)
    for name, parameter in engine.model.named_parameters():
        fragment = local_fragment(engine.deepspeed.optimizer, engine.options.zero_stage, parameter)
        for key in moment_keys(engine, parameter):
            whole = moments(f"{key}.{name}", whole_shape(parameter)).flatten()
            if fragment is not None:
                piece = whole[fragment.offset : fragment.offset + fragment.size]
                fragment.narrow(inner.state[fragment.flat][key]).copy_(piece)
    for state in inner.state.values():
        if "step" in state:
            state["step"].fill_(steps)


def moment_keys(engine: Engine, tensor: Tensor) -> tuple[str, ...]:
    """Keys of the moments of a parameter, or of a flat partition of parameters."""
    inner = inner_optimizer(engine.deepspeed.optimizer)
    return inner.moments(tensor) if isinstance(inner, MuonAdamW) else ADAMW_MOMENTS


def whole_weights(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, unpartitioned fp32 parameter), then (name, buffer); every rank must exhaust the iterator."""
    for name, parameter in engine.model.named_parameters():
        # In stages 0 to 2, every rank has the whole fp32 parameter, which is equal to the optimizer's copy.
        stage = engine.options.zero_stage
        yield name, whole_tensor(engine.deepspeed.optimizer, 3, parameter, None) if stage == 3 else parameter
    yield from engine.model.named_buffers()


def whole_moments(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    """Yield (`<moment>.<parameter name>`, unpartitioned moment); every rank must exhaust the iterator."""
    for name, parameter in engine.model.named_parameters():
        for moment in moment_keys(engine, parameter):
            optimizer, stage = engine.deepspeed.optimizer, engine.options.zero_stage
            yield f"{moment}.{name}", whole_tensor(optimizer, stage, parameter, moment)
