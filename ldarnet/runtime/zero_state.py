"""The state of a run by parameter name, whole and in fp32, whatever ZeRO stage and number of ranks hold it.

DeepSpeed cuts weights and moments into flat partitions; these functions are the one place that knows where a parameter
lies in them. What they read with one layout can be written with another.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ldarnet.runtime.engine import Engine

MOMENTS = ("exp_avg", "exp_avg_sq")


def prepare_optimizer_state(engine: Engine) -> None:
    """Create the moments that torch makes only in its first step, so that they can be read and written at any step."""
    optimizer = engine.deepspeed.optimizer
    if engine.options.zero_stage == 0:
        flats = list(engine.model.parameters())
        inner = optimizer
    else:
        flats, inner = _partitions(optimizer), optimizer.optimizer
    for flat in flats:
        device = flat.device if inner.defaults.get("fused") else "cpu"
        inner.state[flat] = {
            "step": torch.zeros((), dtype=torch.float32, device=device),
            **{moment: torch.zeros_like(flat, requires_grad=False) for moment in MOMENTS},
        }
    if hasattr(optimizer, "_hp_optimizer_states_linked"):
        # DeepSpeed links only the first group's moments by itself.
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def restore_optimizer_state(engine: Engine, moments: Callable[[str], Tensor], steps: int) -> None:
    """Write whole moments, which `moments` gives by `<moment>.<parameter name>`, after `steps` updates."""
    for name, parameter in engine.model.named_parameters():
        for moment in MOMENTS:
            whole = moments(f"{moment}.{name}").flatten()
            for target, start in _local_pieces(engine, parameter, moment):
                piece = whole[start : start + target.numel()].to(target.device)
                target[: piece.numel()].copy_(piece)
    inner = engine.deepspeed.optimizer
    for state in getattr(inner, "optimizer", inner).state.values():
        state["step"].fill_(steps)


def whole_parameters(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    """Every parameter in fp32, one at a time; every rank must exhaust the iterator."""
    for name, parameter in engine.model.named_parameters():
        # Below stage 3 every rank holds the whole parameter, in fp32 and equal to the optimiser's copy.
        yield name, _whole(engine, parameter, None) if engine.options.zero_stage == 3 else parameter


def whole_moments(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    """Every moment as `<moment>.<parameter name>`, one at a time; every rank must exhaust the iterator."""
    for name, parameter in engine.model.named_parameters():
        for moment in MOMENTS:
            yield f"{moment}.{name}", _whole(engine, parameter, moment)


def on_host(tensors: Iterator[tuple[str, Tensor]], kept: bool) -> dict[str, Tensor]:
    """What all ranks iterate over, copied to the host one by one, on ranks where it is `kept`."""
    copies = {}
    for name, tensor in tensors:
        if kept:
            copies[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return copies


def _partitions(optimizer: Any) -> list[Tensor]:
    """This rank's flat fp32 partitions."""
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return list(optimizer.fp32_partitioned_groups_flat)
    return list(optimizer.single_partition_of_fp32_groups)


def _whole(engine: Engine, parameter: nn.Parameter, moment: str | None) -> Tensor:
    stage, optimizer = engine.options.zero_stage, engine.deepspeed.optimizer
    holder: Any = parameter
    if stage == 0:
        return optimizer.state[parameter][moment]
    if stage == 3:
        return optimizer.get_full_hp_param(parameter, moment).view(holder.ds_shape)
    return holder.get_full_hp_param(moment)


def _local_pieces(engine: Engine, parameter: nn.Parameter, moment: str) -> Iterator[tuple[Tensor, int]]:
    """The pieces of a parameter's moment that this rank holds: a flat tensor and where it starts in the parameter."""
    optimizer, stage = engine.deepspeed.optimizer, engine.options.zero_stage
    holder: Any = parameter
    if stage == 0:
        yield optimizer.state[parameter][moment].view(-1), 0
    elif stage == 3:
        piece, _ = optimizer._get_fp32_opt_state_partition(parameter, False, moment)
        yield piece, piece.numel() * optimizer._get_param_partition_rank(parameter)
    elif holder._hp_mapping is not None:
        yield holder._hp_mapping.get_hp_fragment(moment), holder._hp_mapping.lp_fragment_address.start
