"""The state of a run by parameter name, whole and in fp32, whatever ZeRO stage and number of ranks hold it.

DeepSpeed cuts weights and moments into flat partitions; these functions are the one place that knows where a parameter
lies in them. What they read with one layout can be written with another.
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
    whole_tensor,
)
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import Engine, EngineOptions


def engine_from_checkpoint(
    model: nn.Module, groups: list[dict], options: EngineOptions, world: World, checkpoint: Path | None, updates: int
) -> Engine:
    """Create an engine with the optimizer state of a checkpoint, or a fresh one without a checkpoint.

    Args:
        model: with the weights to train, which are those of the checkpoint.
        groups: parameter groups for AdamW.
        options: how to train.
        world: the ranks.
        checkpoint: folder of the checkpoint.
        updates: optimizer updates that the checkpoint's moments have seen.
    """
    engine = Engine(model, groups, options, world)
    prepare_optimizer_state(engine)
    if checkpoint is not None:
        with moments_of(checkpoint) as moments:
            restore_optimizer_state(engine, moments, updates)
    return engine


def prepare_optimizer_state(engine: Engine) -> None:
    """Create the moments that torch makes only in its first step, so that they can be read and written at any step."""
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


def restore_optimizer_state(engine: Engine, moments: Callable[[str], Tensor], steps: int) -> None:
    """Write whole moments, which `moments` gives by `<moment>.<parameter name>`, after `steps` updates."""
    for name, parameter in engine.model.named_parameters():
        for moment in MOMENTS:
            whole = moments(f"{moment}.{name}").flatten()
            for target, start in local_moment(engine.deepspeed.optimizer, engine.options.zero_stage, parameter, moment):
                piece = whole[start : start + target.numel()].to(target.device)
                target[: piece.numel()].copy_(piece)
    inner = engine.deepspeed.optimizer
    for state in getattr(inner, "optimizer", inner).state.values():
        state["step"].fill_(steps)


def whole_parameters(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    """Every parameter in fp32, one at a time; every rank must exhaust the iterator."""
    for name, parameter in engine.model.named_parameters():
        # Below stage 3 every rank holds the whole parameter, in fp32 and equal to the optimizer's copy.
        stage = engine.options.zero_stage
        yield name, whole_tensor(engine.deepspeed.optimizer, 3, parameter, None) if stage == 3 else parameter


def whole_moments(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    """Every moment as `<moment>.<parameter name>`, one at a time; every rank must exhaust the iterator."""
    for name, parameter in engine.model.named_parameters():
        for moment in MOMENTS:
            optimizer, stage = engine.deepspeed.optimizer, engine.options.zero_stage
            yield f"{moment}.{name}", whole_tensor(optimizer, stage, parameter, moment)


def on_host(tensors: Iterator[tuple[str, Tensor]], kept: bool) -> dict[str, Tensor]:
    """What all ranks iterate over, copied to the host one by one, on ranks where it is `kept`."""
    copies = {}
    for name, tensor in tensors:
        if kept:
            copies[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return copies
