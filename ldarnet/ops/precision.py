"""Where at least float32 is demanded: islands inside autocast, and float64 kept when the model is float64."""

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it already is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(device: torch.device) -> torch.autocast:
    """A context in which autocast does not lower the precision of products on this device."""
    return torch.autocast(device.type, enabled=False)


def matmul_dtype(weight: Tensor) -> torch.dtype:
    """The dtype that a product with this weight is taken in: autocast's where it is on, else the weight's own."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
