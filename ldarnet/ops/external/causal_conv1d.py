"""Depthwise convolution from causal-conv1d. Shapes as in :mod:`ldarnet.ops.convolution`."""

import torch
from torch import Tensor

from ldarnet.ops.columns import GradientBuffer
from ldarnet.ops.external._requirements import HALF, INSTALL_KERNELS
from ldarnet.ops.external._reversal import permute_rows, reversal_index
from ldarnet.ops.packing import Packing
from ldarnet.ops.registry import register


@register(
    "convolution",
    "causal-conv1d",
    devices=("cuda",),
    dtypes=(*HALF, torch.float32),
    package="causal_conv1d",
    install=INSTALL_KERNELS,
)
def convolution(
    x_TC: Tensor, weight_KCW: Tensor, bias_KC: Tensor, packing: Packing, dx: GradientBuffer | None = None
) -> Tensor:
    """Compute all directions in one call, by concatenating them along the channel dimension.

    The kernel supports 2 to 4 taps, and C must be divisible by 4. The package allocates its
    gradients; ``dx`` is unused.
    """
    from causal_conv1d import causal_conv1d_fn

    del dx
    (T, C), K = x_TC.shape, len(bias_KC)
    reverse = reversal_index(packing) if K == 2 else None
    inputs = x_TC.contiguous() if reverse is None else torch.cat([x_TC, permute_rows(x_TC, reverse)], 1)
    y = causal_conv1d_fn(
        inputs.t()[None],
        weight_KCW.flatten(0, 1).to(x_TC.dtype),
        bias_KC.flatten().to(x_TC.dtype),
        seq_idx=packing.sequence.int()[None],
        activation="silu",
    )
    y_TKC = y[0].t().view(T, K, C)
    if reverse is None:
        return y_TKC
    forward, backward = y_TKC.unbind(1)
    return torch.stack([forward, permute_rows(backward, reverse)], 1)
