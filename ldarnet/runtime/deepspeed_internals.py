"""All uses of DeepSpeed's private APIs; no other module uses them.

Tested with DeepSpeed 0.19.8. In every ZeRO stage, private APIs make the import faster and silent. In stages 1 to 3,
they also avoid a device synchronization in each step, and locate each parameter in DeepSpeed's flat partitions. The
locations are needed to save checkpoints by parameter name and to measure gradient norms per module. If the installed
version lacks an API that stages 1 to 3 need, `check_optimizer` or `keep_gradient_norms_on_device` raises an error.
"""

import functools
import importlib
import logging
import os
import sys
import warnings
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from ldarnet.errors import UserError

TESTED_VERSION = "0.19.8"
ADAMW_MOMENTS, MUON_MOMENTS = ("exp_avg", "exp_avg_sq"), ("momentum_buffer",)
"""Keys of the moment tensors in the optimizer state."""

_PARTITIONED = ("single_partition_of_fp32_groups", "_lazy_init_hp_params_optimizer_state", "_global_grad_norm")
_STAGE_3 = (
    "fp32_partitioned_groups_flat",
    "get_full_hp_param",
    "_get_param_partition_rank",
    "get_param_id",
    "grad_position",
)
_NEEDED = {0: (), 1: _PARTITIONED, 2: _PARTITIONED, 3: _STAGE_3}
"""Required private attributes of DeepSpeed's optimizer, by ZeRO stage."""


def set_accelerator() -> None:
    """Tell DeepSpeed which device it will use; otherwise its import warns if there is no GPU.

    accelerate imports DeepSpeed whenever transformers saves a model.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def load_deepspeed() -> ModuleType:
    """Import DeepSpeed without log output and without its slow optional dependencies.

    DeepSpeed's autotuner imports MLflow, and its Muon optimizer imports torch's compiler. Both imports take seconds.
    On CPU, DeepSpeed would also compile a shared-memory op for inference, which takes a minute and needs a C++
    compiler.
    """
    set_accelerator()
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=".*(reduce_scatter|all_gather)_.*deprecated.*")
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import deepspeed
    finally:
        if hidden:
            del sys.modules["mlflow"]
    compiler = importlib.import_module("deepspeed.runtime.compiler")
    with patch.object(compiler, "compile", lambda: compiler.dummy_decorator):
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)
    return deepspeed


def check_optimizer(optimizer: Any, zero_stage: int) -> None:
    """Check that DeepSpeed's optimizer has the private attributes required for this ZeRO stage.

    Raises:
        UserError: an attribute is missing; the message contains the installed and the tested version.
    """
    missing = [name for name in _NEEDED[zero_stage] if not hasattr(optimizer, name)]
    if missing:
        raise unsupported(f"its ZeRO stage {zero_stage} optimizer has no attribute {missing[0]}")


def check_groups(optimizer: Any, expected: torch.optim.Optimizer, groups: list[dict]) -> None:
    """Check that DeepSpeed updates the parameters with our optimizer and parameter groups.

    Raises:
        UserError: DeepSpeed replaced the optimizer or its groups.
    """
    inner = inner_optimizer(optimizer)
    if inner is not expected:
        raise unsupported(f"it replaced the optimizer {type(expected).__name__} by {type(inner).__name__}")
    if list(map(id, inner.param_groups)) != list(map(id, groups)):
        raise unsupported("it replaced the parameter groups of the optimizer")


def keep_gradient_norms_on_device() -> None:
    """Patch out DeepSpeed's check for a finite gradient norm, which synchronizes with the device in every step.

    The guard checks the norm on the device instead. In ZeRO stage 3, and with offload, DeepSpeed still synchronizes to
    compute the norm.

    Raises:
        UserError: this version of DeepSpeed implements the check differently.
    """
    replacements = {
        "is_invalid_grad_norm": lambda norm: False,
        "mask_nan_or_inf_with_val_inplace": lambda *_, **__: None,
    }
    for name in ("stage_1_and_2", "stage3"):
        module = importlib.import_module(f"deepspeed.runtime.zero.{name}")
        for function, replacement in replacements.items():
            if not hasattr(module, function):
                raise unsupported(f"{module.__name__} has no function {function}")
            setattr(module, function, replacement)


def global_gradient_norm(optimizer: Any) -> Tensor | float:
    """Global gradient norm of the last step, before clipping (ZeRO stages 1 to 3)."""
    return optimizer._global_grad_norm


def inner_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside DeepSpeed's; in ZeRO stage 0, DeepSpeed's optimizer is the torch optimizer."""
    return getattr(optimizer, "optimizer", optimizer)


def flat_partitions(optimizer: Any) -> list[Tensor]:
    """This rank's flat fp32 parameter partitions, which the inner optimizer updates (ZeRO stages 1 to 3)."""
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return list(optimizer.fp32_partitioned_groups_flat)
    return list(optimizer.single_partition_of_fp32_groups)


def link_optimizer_states(optimizer: Any) -> None:
    """Link the parameters of all parameter groups to their moments; DeepSpeed only links those of the first group."""
    if hasattr(optimizer, "_hp_optimizer_states_linked"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    """Full shape of a parameter; in ZeRO stage 3, the tensor of a partitioned parameter is empty."""
    return getattr(parameter, "ds_shape", parameter.shape)


def whole_tensor(optimizer: Any, zero_stage: int, parameter: nn.Parameter, moment: str | None) -> Tensor:
    """Gather a whole fp32 parameter or, if `moment` is given, its moment; every rank must call this function."""
    holder: Any = parameter
    if zero_stage == 0:
        return optimizer.state[parameter][moment]
    if zero_stage == 3:
        return optimizer.get_full_hp_param(parameter, moment).view(holder.ds_shape)
    return holder.get_full_hp_param(moment)


@dataclass(frozen=True)
class Fragment:
    """The elements of a flattened parameter that this rank updates.

    Attributes:
        flat: tensor in the optimizer's parameter groups that contains the elements, possibly with those of other
            parameters.
        start: index of the first element in the flattened `flat`.
        offset: index of the first element in the flattened parameter.
        size: number of elements; may be 0.
    """

    flat: Tensor
    start: int
    offset: int
    size: int

    def narrow(self, flat: Tensor) -> Tensor:
        """The elements in a tensor that is laid out like `self.flat`, such as a moment or the gradient of `flat`."""
        return flat.view(-1).narrow(0, self.start, self.size)


def local_fragment(optimizer: Any, zero_stage: int, parameter: nn.Parameter) -> Fragment | None:
    """Locate this rank's fragment of a parameter; None if this rank has none."""
    holder: Any = parameter
    if zero_stage == 0:
        return Fragment(parameter, 0, 0, parameter.numel())
    if zero_stage == 3:
        group, start, padded = optimizer.grad_position[optimizer.get_param_id(parameter)]
        offset = padded * optimizer._get_param_partition_rank(parameter)
        size = max(0, min(padded, whole_shape(parameter).numel() - offset))
        return Fragment(optimizer.fp32_partitioned_groups_flat[group], start, offset, size)
    if holder._hp_mapping is None:
        return None
    mapping = holder._hp_mapping
    flat, address = optimizer.single_partition_of_fp32_groups[mapping.param_group_index], mapping.hp_fragment_address
    return Fragment(flat, address.start, mapping.lp_fragment_address.start, address.numel)


def fragment_in_group(optimizer: Any, zero_stage: int, parameter: nn.Parameter, group: int) -> Fragment:
    """Locate this rank's fragment of a parameter of a group; its size is 0 if this rank has none."""
    return local_fragment(optimizer, zero_stage, parameter) or Fragment(flat_partitions(optimizer)[group], 0, 0, 0)


def unsupported(reason: str) -> UserError:
    """Create an error about the installed version of DeepSpeed."""
    return UserError(
        f"DeepSpeed {metadata.version('deepspeed')} is not supported: {reason}; install deepspeed=="
        f"{TESTED_VERSION}, or train with training.zero_stage=0"
    )
