"""Backends from packages of CUDA kernels, in the shape of our operations.

None is chosen by ``auto``: each has to be shown to agree with its reference on a GPU first. A configuration can demand
them; ``pytest tests/ops/test_kernels.py`` on a GPU machine compares them. Shapes as in the operations' own files.
"""

# The packages are imported where they are called, since none of them can be imported without a GPU.

import torch
from torch import Tensor

from ldarnet.ops.packing import Packing
from ldarnet.ops.registry import register

_INSTALL = 'pip install --no-build-isolation ".[kernels]"'


def _reversed_in_place(packing: Packing) -> Tensor:
    """(T,) index that reads every sequence backwards where it stands; its own inverse."""
    first_T = packing.starts[packing.sequence]
    return first_T + packing.lengths[packing.sequence] - 1 - packing.position


@register("ssd", "mamba-ssm", devices=("cuda",), package="mamba_ssm", install=_INSTALL, automatic=False)
def ssd(
    x_TKHP: Tensor,
    dt_TKH: Tensor,
    a_KH: Tensor,
    b_TKN: Tensor,
    c_TKN: Tensor,
    d_KH: Tensor,
    packing: Packing,
    chunk_size: int,
) -> Tensor:
    """mamba-ssm's Triton scan; both directions are heads of one call, each with its own group of B and C."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    T, K, H, P = x_TKHP.shape
    backwards = _reversed_in_place(packing)

    def turned(value: Tensor) -> Tensor:
        return torch.stack([value[:, 0], value[:, 1].index_select(0, backwards)], 1)

    y = mamba_chunk_scan_combined(
        turned(x_TKHP).view(1, T, K * H, P),
        turned(dt_TKH).view(1, T, K * H),
        a_KH.flatten(),
        turned(b_TKN)[None],
        turned(c_TKN)[None],
        chunk_size,
        D=d_KH.flatten(),
        seq_idx=packing.sequence.int()[None],
    )
    return turned(y.view(T, K, H, P))


@register("convolution", "causal-conv1d", devices=("cuda",), package="causal_conv1d", install=_INSTALL, automatic=False)
def convolution(x_TC: Tensor, weight_KCW: Tensor, bias_KC: Tensor, packing: Packing) -> Tensor:
    """causal-conv1d's kernel; both directions are channels of one call."""
    from causal_conv1d import causal_conv1d_fn

    T, C = x_TC.shape
    backwards = _reversed_in_place(packing)
    both = torch.cat([x_TC, x_TC.index_select(0, backwards)], 1)
    y = causal_conv1d_fn(
        both.t()[None],
        weight_KCW.flatten(0, 1).to(x_TC.dtype),
        bias_KC.flatten().to(x_TC.dtype),
        seq_idx=packing.sequence.int()[None],
        activation="silu",
    )
    forward, backward = y[0].t().view(T, 2, C).unbind(1)
    return torch.stack([forward, backward.index_select(0, backwards)], 1)


@register("attention", "flash-attn", devices=("cuda",), package="flash_attn", install=_INSTALL, automatic=False)
def attention(q_THP: Tensor, k_THP: Tensor, v_THP: Tensor, packing: Packing, window: int) -> Tensor:
    """FlashAttention 2 over sequences of unequal length; takes half precision only."""
    from flash_attn import flash_attn_varlen_func

    starts, longest = packing.starts.int(), max(packing.host_lengths)
    return flash_attn_varlen_func(q_THP, k_THP, v_THP, starts, starts, longest, longest, window_size=(window, window))
