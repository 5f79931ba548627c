"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), non-interleaved, base 10000."""

import torch
from torch import Tensor

from ldarnet.ops.precision import at_least_fp32

BASE = 10000.0


def rotate(x_THP: Tensor, position_T: Tensor, width: int) -> Tensor:
    """Apply rotary position embedding to the first ``width`` features of every head.

    Feature i of the first half pairs with feature i of the second half; each pair rotates by the angle
    position / BASE^(2i/width).

    Args:
        x_THP: queries or keys.
        position_T: index of each position within its sequence.
        width: number of rotated features; even, at most P.

    Returns:
        Rotated x, (T, H, P), in the dtype of x. The computation is in at least float32.
    """
    exact = at_least_fp32(x_THP)
    frequency = BASE ** -(torch.arange(0, width, 2, device=x_THP.device, dtype=exact.dtype) / width)
    angle = (position_T.to(exact.dtype)[:, None] * frequency)[:, None]
    cos, sin = angle.cos(), angle.sin()
    first, second, rest = exact.split([width // 2, width // 2, x_THP.shape[-1] - width], dim=-1)
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
    return rotated.to(x_THP.dtype)
