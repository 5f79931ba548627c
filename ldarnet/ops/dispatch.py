"""Which backend computes an operation: the one that was demanded, or the fastest that is right on this machine.

On a device that kernels were written for, ``auto`` tries each one once on a small example, forward and backward, before
it is used; one that fails or disagrees with the reference is passed over, and :func:`obstacle` says why.
"""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ldarnet.errors import UserError
from ldarnet.ops.registry import REFERENCE, Backend, backends_of, operations
from ldarnet.ops.verify import NEVER_LOWERED, TOLERANCES, disagreement

TRIAL_LENGTHS = (5, 64, 1, 200, 63)


@cache
def resolve(operation: str, device: str, dtype: torch.dtype, demand: str = "auto") -> Backend:
    """Choose the backend of an operation.

    Args:
        operation: the operation's name.
        device: a torch device type, ``cpu`` or ``cuda``.
        dtype: of the operation's main input.
        demand: a backend's name, or ``auto`` for the most preferred one that runs here and agrees with the reference.

    Raises:
        UserError: no such operation or backend, or the demanded one cannot run here.
    """
    if operation not in operations():
        raise UserError(f"ops: no operation {operation!r}; the operations are {', '.join(operations())}")
    known = backends_of(operation)
    if demand == "auto":
        return next(backend for backend in reversed(known.values()) if not obstacle(backend, device, dtype))
    if demand not in known:
        raise UserError(f"ops.{operation}: no backend {demand!r}; choose auto or one of {', '.join(known)}")
    if reason := known[demand].obstacle(device, dtype):
        raise UserError(f"ops.{operation}={demand} cannot be met: {reason}; take the demand away to use one that can")
    return known[demand]


def chosen(operation: str, like: Tensor, demands: Mapping[str, str]) -> Callable[..., Any]:
    """The function that computes an operation on inputs of this tensor's device and dtype, under these demands."""
    return resolve(operation, like.device.type, like.dtype, demands.get(operation, "auto")).function


def choose_backends(device: str, dtype: torch.dtype, demands: Mapping[str, str] | None = None) -> dict[str, str]:
    """Name the backend that each operation uses in a model that takes its products in ``dtype``, under these demands.

    Raises:
        UserError: a demand that cannot be met.
    """
    demands = demands or {}
    names = (*operations(), *(name for name in demands if name not in operations()))
    return {name: resolve(name, device, input_dtype(name, dtype), demands.get(name, "auto")).name for name in names}


def input_dtype(operation: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype that an operation is looked up at in a model that takes its products in ``dtype``."""
    return torch.promote_types(dtype, torch.float32) if operation in NEVER_LOWERED else dtype


@cache
def obstacle(backend: Backend, device: str, dtype: torch.dtype) -> str:
    """Why ``auto`` does not choose this backend; empty when it may."""
    if backend.name == REFERENCE:
        return ""
    if reason := backend.obstacle(device, dtype):
        return reason
    if flaw := _flaw(backend, device, dtype):
        logging.getLogger(__name__).warning("ops.%s=%s is passed over: it %s", backend.operation, backend.name, flaw)
        return flaw
    return ""


def _flaw(backend: Backend, device: str, dtype: torch.dtype) -> str:
    """What is wrong with this backend's results on this device; empty when they agree with the reference."""
    try:
        error = disagreement(backend, device, dtype, TRIAL_LENGTHS)
    except torch.OutOfMemoryError:
        raise  # it says nothing of the kernel
    except Exception as failure:
        return f"does not run here: {type(failure).__name__}: {str(failure).partition(chr(10))[0]}"
    if not error <= TOLERANCES[dtype]:
        return f"differs here from the reference by {error:.2g} of its largest value"
    return ""
