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
    W = weight_KCW.shape[-1]
    margin = W - 1
    place_T = torch.arange(len(x_TC), device=x_TC.device) + packing.sequence * margin
    width = len(x_TC) + (len(packing.starts) - 2) * margin
    row = x_TC.new_zeros(width + 2 * margin, x_TC.shape[1]).index_copy(0, place_T + margin, x_TC)
    weight_KCW, bias_KC = weight_KCW.to(x_TC.dtype), bias_KC.to(x_TC.dtype)
    directions = []
    for weight_CW, bias_C, back in zip(weight_KCW, bias_KC, (-1, 1), strict=True):
        y = bias_C.expand(width, -1)
        for tap in range(W):
            first = margin + back * (margin - tap)
            y = torch.addcmul(y, row[first : first + width], weight_CW[:, tap])
        directions.append(y)
    return F.silu(torch.stack(directions, 1).index_select(0, place_T))
