"""Select the backend of each operation, by override or automatically.

``auto`` selects the most preferred backend that supports the device and dtype. It first compares the outputs and
gradients of the backend with those of the reference on a small example, and skips the backend if it fails or does not
match (see :func:`skip_reason`). An override is not compared with the reference.
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

VERIFY_LENGTHS = (5, 64, 1, 200, 63)


@cache
def resolve(operation: str, device: str, dtype: torch.dtype, override: str = "auto") -> Backend:
    """Select the backend of an operation.

    Args:
        operation: name of the operation, for example ``ssd``.
        device: torch device type, ``cpu`` or ``cuda``.
        dtype: dtype of the operation's main input.
        override: backend name, or ``auto`` for the most preferred backend that is supported and matches the reference.

    Raises:
        UserError: unknown operation or backend, or an override that does not support this device or dtype.
    """
    if operation not in operations():
        raise UserError(f"ops: unknown operation {operation!r}; choose one of {', '.join(operations())}")
    known = backends_of(operation)
    if override == "auto":
        return next(backend for backend in reversed(known.values()) if not skip_reason(backend, device, dtype))
    if override not in known:
        raise UserError(f"ops.{operation}: unknown backend {override!r}; choose auto or one of {', '.join(known)}")
    if reason := known[override].unsupported_reason(device, dtype):
        raise UserError(f"ops.{operation}={override} is not supported: {reason}; remove the override")
    return known[override]


def kernel_for(operation: str, like: Tensor, overrides: Mapping[str, str]) -> Callable[..., Any]:
    """Select the function that computes an operation on inputs with the device and dtype of ``like``."""
    return resolve(operation, like.device.type, like.dtype, overrides.get(operation, "auto")).function


def choose_backends(device: str, dtype: torch.dtype, overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """Backend name of each operation in a model whose matrix products run in ``dtype``.

    Raises:
        UserError: unknown operation or backend, or an override that does not support this device or dtype.
    """
    overrides = overrides or {}
    names = (*operations(), *(name for name in overrides if name not in operations()))
    return {name: resolve(name, device, input_dtype(name, dtype), overrides.get(name, "auto")).name for name in names}


def input_dtype(operation: str, dtype: torch.dtype) -> torch.dtype:
    """Dtype of an operation's main input in a model whose matrix products run in ``dtype``."""
    return torch.promote_types(dtype, torch.float32) if operation in FP32_OPERATIONS else dtype


@cache
def skip_reason(backend: Backend, device: str, dtype: torch.dtype) -> str:
    """Reason why ``auto`` skips this backend; empty if ``auto`` may select it."""
    if backend.name == REFERENCE:
        return ""
    if reason := backend.unsupported_reason(device, dtype):
        return reason
    if mismatch := _mismatch(backend, device, dtype):
        logging.getLogger(__name__).warning("skipping ops.%s=%s: %s", backend.operation, backend.name, mismatch)
        return mismatch
    return ""


def _mismatch(backend: Backend, device: str, dtype: torch.dtype) -> str:
    """Reason why this backend fails verification on this device; empty if it matches the reference."""
    try:
        error = max_error(backend, device, dtype, VERIFY_LENGTHS)
    except torch.OutOfMemoryError:
        raise  # running out of memory does not mean that the kernel is wrong
    except Exception as failure:
        return f"failed on this device: {type(failure).__name__}: {str(failure).partition(chr(10))[0]}"
    if not error <= TOLERANCES[dtype]:
        return f"does not match the reference on this device: relative error {error:.2g}"
    return ""
