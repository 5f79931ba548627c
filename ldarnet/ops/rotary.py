"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), non-interleaved, base 10000.

Shapes: T packed positions, H heads, P head dimension, F = 3 * H * P features of the fused projection, R pairs of
rotated features.
"""

import torch
from torch import Tensor

from ldarnet.ops.packing import Packing
from ldarnet.ops.precision import at_least_fp32
from ldarnet.ops.registry import REFERENCE, register

BASE = 10000.0


@register("rotary", REFERENCE)
def rotary(qkv_TF: Tensor, packing: Packing, heads: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split the fused projection into queries, keys and values, and rotate queries and keys.

    In each head, feature i < R pairs with feature R + i; each pair rotates by the angle position / BASE^(i/R).

    Args:
        qkv_TF: queries, keys and values of all heads.
        packing: sequence boundaries; positions count from the start of each sequence.
        heads: number of heads.
        width: number of rotated features per head, 2R; even, at most P.

    Returns:
        Queries, keys and values, (T, H, P), in the dtype of the input. The computation is in at least float32.
    """
    q, k, v = qkv_TF.unflatten(-1, (3, heads, -1)).unbind(1)
    cos_TR, sin_TR = cos_and_sin(packing.position, width, torch.promote_types(qkv_TF.dtype, torch.float32))
    return _rotate(q, cos_TR, sin_TR), _rotate(k, cos_TR, sin_TR), v


def cos_and_sin(position_T: Tensor, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotation angle of each position and feature pair, both (T, R)."""
    frequency = BASE ** -(torch.arange(0, width, 2, device=position_T.device, dtype=dtype) / width)
    angle = position_T[:, None] * frequency
    return angle.cos(), angle.sin()


def _rotate(x_THP: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    pairs, cos, sin = cos_TR.shape[1], cos_TR[:, None], sin_TR[:, None]
    first, second, rest = at_least_fp32(x_THP).split([pairs, pairs, x_THP.shape[-1] - 2 * pairs], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1).to(x_THP.dtype)
