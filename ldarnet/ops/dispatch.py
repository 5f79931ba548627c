"""Which backend computes an operation: the one that was demanded, or the fastest that is right on this machine.

On a device that kernels were written for, ``auto`` tries each one once on a small example, forward and backward, before
it is used; one that fails or disagrees with the reference is passed over, and :func:`skip_reason` says why.
"""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ldarnet.errors import UserError
from ldarnet.ops.registry import REFERENCE, Backend, backends_of, operations
from ldarnet.ops.verify import FP32_OPERATIONS, TOLERANCES, max_error

TRIAL_LENGTHS = (5, 64, 1, 200, 63)


@cache
def resolve(operation: str, device: str, dtype: torch.dtype, override: str = "auto") -> Backend:
    """Choose the backend of an operation.

    Args:
        operation: the operation's name.
        device: a torch device type, ``cpu`` or ``cuda``.
        dtype: of the operation's main input.
        override: a backend's name, or ``auto`` for the most preferred one that runs here and agrees with the reference.

    Raises:
        UserError: no such operation or backend, or the demanded one cannot run here.
    """
    if operation not in operations():
        raise UserError(f"ops: no operation {operation!r}; the operations are {', '.join(operations())}")
    known = backends_of(operation)
    if override == "auto":
        return next(backend for backend in reversed(known.values()) if not skip_reason(backend, device, dtype))
    if override not in known:
        raise UserError(f"ops.{operation}: no backend {override!r}; choose auto or one of {', '.join(known)}")
    if reason := known[override].unsupported_reason(device, dtype):
        raise UserError(f"ops.{operation}={override} is not supported: {reason}; remove the override")
    return known[override]


def kernel_for(operation: str, like: Tensor, overrides: Mapping[str, str]) -> Callable[..., Any]:
    """The function that computes an operation on inputs of this tensor's device and dtype, under these overrides."""
    return resolve(operation, like.device.type, like.dtype, overrides.get(operation, "auto")).function


def choose_backends(device: str, dtype: torch.dtype, overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """Name the backend that each operation uses in a model that takes its products in ``dtype``, under these overrides.

    Raises:
        UserError: a override that cannot be met.
    """
    overrides = overrides or {}
    names = (*operations(), *(name for name in overrides if name not in operations()))
    return {name: resolve(name, device, input_dtype(name, dtype), overrides.get(name, "auto")).name for name in names}


def input_dtype(operation: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype that an operation is looked up at in a model that takes its products in ``dtype``."""
    return torch.promote_types(dtype, torch.float32) if operation in FP32_OPERATIONS else dtype


@cache
def skip_reason(backend: Backend, device: str, dtype: torch.dtype) -> str:
    """Why ``auto`` does not choose this backend; empty when it may."""
    if backend.name == REFERENCE:
        return ""
    if reason := backend.unsupported_reason(device, dtype):
        return reason
    if mismatch := _mismatch(backend, device, dtype):
        logging.getLogger(__name__).warning("skipping ops.%s=%s: %s", backend.operation, backend.name, mismatch)
        return mismatch
    return ""


def _mismatch(backend: Backend, device: str, dtype: torch.dtype) -> str:
    """What is wrong with this backend's results on this device; empty when they agree with the reference."""
    try:
        error = max_error(backend, device, dtype, TRIAL_LENGTHS)
    except torch.OutOfMemoryError:
        raise  # it says nothing of the kernel
    except Exception as failure:
        return f"does not run here: {type(failure).__name__}: {str(failure).partition(chr(10))[0]}"
    if not error <= TOLERANCES[dtype]:
        return f"differs here from the reference by {error:.2g} of its largest value"
    return ""
