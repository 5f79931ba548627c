"""Helpers to compute in at least float32 under autocast, and in float64 for float64 models."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """Cast to float32; float64 stays float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(device: torch.device) -> torch.autocast:
    """Context manager that disables autocast on this device."""
    return torch.autocast(device.type, enabled=False)


@contextmanager
def tf32(enabled: bool = True) -> Iterator[None]:
    """Compute float32 matrix products on NVIDIA GPUs in TF32, if ``enabled``; otherwise, change nothing."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        if enabled:
            matmul.fp32_precision = "tf32"
        yield
    finally:
        matmul.fp32_precision = before


def matmul_dtype(weight: Tensor, device: torch.device) -> torch.dtype:
    """Dtype of a matrix product: under autocast, the autocast dtype of the device; otherwise, the dtype of the weight.

    The weight may be on another device, because accelerate moves offloaded weights only when they are used.
    """
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else weight.dtype
