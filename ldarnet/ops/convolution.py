"""Mamba-2's short depthwise convolution, causal in both reading directions at once.

Shapes: T packed positions, C channels, K = 2 directions (0 left to right, 1 right to left), W taps.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ldarnet.ops.packing import Packing
from ldarnet.ops.registry import REFERENCE, register


@register("convolution", REFERENCE)
def convolution(x_TC: Tensor, weight_KCW: Tensor, bias_KC: Tensor, packing: Packing) -> Tensor:
    """SiLU of a depthwise convolution over the W-1 positions read before each position and the position itself.

    Tap W-1 is the position itself. Nothing is read across the border of a sequence: each stands between W-1 zeros.

    Returns:
        (T, K, C), in the dtype of x.
    """
    T, C = x_TC.shape
    W = weight_KCW.shape[-1]
    place_T = torch.arange(T, device=x_TC.device) + (packing.sequence + 1) * (W - 1)
    width = T + len(packing.starts) * (W - 1)
    row = x_TC.new_zeros(width, C).index_copy(0, place_T, x_TC)
    left, right = weight_KCW.to(x_TC.dtype).unbind(0)
    both_CKW = torch.stack([F.pad(left, (0, W - 1)), F.pad(right.flip(-1), (W - 1, 0))], 1)
    y = F.conv1d(row.t()[None], both_CKW.reshape(2 * C, 1, 2 * W - 1), padding=W - 1, groups=C)
    y_TKC = y[0].view(C, 2, width).index_select(2, place_T).permute(2, 1, 0)
    return F.silu(y_TKC + bias_KC.to(x_TC.dtype))
