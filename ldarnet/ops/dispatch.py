"""Select the backend of each operation, by override or automatically.

``auto`` selects the most preferred backend that supports the device and dtype. It first compares the outputs and
gradients of the backend with those of the reference on examples of the model's sizes, and skips the backend if it fails
or does not match (see :func:`skip_reason`). Results are cached (:mod:`ldarnet.ops.verification_cache`). An override is
not compared with the reference.
"""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ldarnet.errors import UserError
from ldarnet.ops.registry import REFERENCE, Backend, backends_of, operations
from ldarnet.ops.verification_cache import cached_error
from ldarnet.ops.verify import DEFAULT_SIZES, FP32_OPERATIONS, TOLERANCES, Sizes, max_error

VERIFY_LENGTHS = (5, 64, 1, 600, 63)
SCAN_LENGTHS = (5, 64, 1, 4100, 63)
"""Lengths for the scan. They are longer because mamba-ssm tunes its kernels on the first row that it sees, and because
our kernels divide sequences of more than 4,096 steps."""


class KernelOptions(NamedTuple):
    """What the selection of a model's backends depends on.

    Attributes:
        overrides: operation -> backend name, or ``auto``, the default.
        sizes: operation -> sizes of each stage that contains the operation; default: :data:`DEFAULT_SIZES`.
    """

    overrides: Mapping[str, str] = MappingProxyType({})
    sizes: Mapping[str, tuple[Sizes, ...]] = MappingProxyType({})

    def resolve(self, operation: str, device: str, dtype: torch.dtype) -> Backend:
        """Select the backend of an operation; see :func:`resolve`."""
        override, sizes = self.overrides.get(operation, "auto"), self.sizes.get(operation, (DEFAULT_SIZES,))
        return resolve(operation, device, dtype, override, sizes)


_DEFAULT_OPTIONS = KernelOptions()


@cache
def resolve(
    operation: str,
    device: str,
    dtype: torch.dtype,
    override: str = "auto",
    sizes: tuple[Sizes, ...] = (DEFAULT_SIZES,),
) -> Backend:
    """Select the backend of an operation.

    Args:
        operation: name of the operation, for example ``ssd``.
        device: torch device type, ``cpu`` or ``cuda``.
        dtype: dtype of the operation's main input.
        override: backend name, or ``auto`` for the most preferred backend that is supported and matches the reference.
        sizes: sizes for which the backend must match the reference.

    Raises:
        UserError: unknown operation or backend, or an override that does not support this device or dtype.
    """
    if operation not in operations():
        raise UserError(f"ops: unknown operation {operation!r}; choose one of {', '.join(operations())}")
    known = backends_of(operation)
    if override == "auto":
        return next(backend for backend in reversed(known.values()) if not skip_reason(backend, device, dtype, sizes))
    if override not in known:
        raise UserError(f"ops.{operation}: unknown backend {override!r}; choose auto or one of {', '.join(known)}")
    if reason := known[override].unsupported_reason(device, dtype):
        raise UserError(f"ops.{operation}={override} is not supported: {reason}; remove the override")
    return known[override]


def kernel_for(operation: str, like: Tensor, options: KernelOptions) -> Callable[..., Any]:
    """Select the function that computes an operation on inputs with the device and dtype of ``like``."""
    return options.resolve(operation, like.device.type, like.dtype).function


def choose_backends(device: str, dtype: torch.dtype, options: KernelOptions = _DEFAULT_OPTIONS) -> dict[str, str]:
    """Backend name of each operation in a model whose matrix products run in ``dtype``.

    Raises:
        UserError: unknown operation or backend, or an override that does not support this device or dtype.
    """
    names = (*operations(), *(name for name in options.overrides if name not in operations()))
    return {name: options.resolve(name, device, input_dtype(name, dtype)).name for name in names}


def input_dtype(operation: str, dtype: torch.dtype) -> torch.dtype:
    """Dtype of an operation's main input in a model whose matrix products run in ``dtype``."""
    return torch.promote_types(dtype, torch.float32) if operation in FP32_OPERATIONS else dtype


def skip_reason(backend: Backend, device: str, dtype: torch.dtype, sizes: tuple[Sizes, ...] = (DEFAULT_SIZES,)) -> str:
    """Reason why ``auto`` skips this backend; empty if ``auto`` may select it."""
    if backend.name == REFERENCE:
        return ""
    if reason := backend.unsupported_reason(device, dtype):
        return reason
    distinct = {tuple(one.of(backend.operation).items()): one for one in sizes}
    mismatches = (_mismatch(backend, device, dtype, one) for one in distinct.values())
    return next(filter(None, mismatches), "")


@cache
def _mismatch(backend: Backend, device: str, dtype: torch.dtype, sizes: Sizes) -> str:
    """Reason why this backend fails verification on this device, which is logged; empty if it matches the reference."""
    lengths = SCAN_LENGTHS if backend.operation == "ssd" else VERIFY_LENGTHS
    reason = ""
    try:
        error = cached_error(
            backend,
            device,
            dtype,
            sizes.of(backend.operation),
            lambda: max_error(backend, device, dtype, lengths, sizes=sizes),
        )
        if not error <= TOLERANCES[dtype]:
            reason = f"does not match the reference on this device: relative error {error:.2g}"
    except torch.OutOfMemoryError:
        raise  # running out of memory does not mean that the kernel is wrong
    except Exception as failure:
        reason = f"failed on this device: {type(failure).__name__}: {str(failure).partition(chr(10))[0]}"
    if reason:
        logging.getLogger(__name__).warning("skipping ops.%s=%s: %s", backend.operation, backend.name, reason)
    return reason
