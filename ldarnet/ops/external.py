"""Backends from packages of GPU kernels, in the shape of our operations.

None has been run on a GPU yet. ``auto`` tries each one on the GPU at hand before it is used, and
``pytest tests/ops/test_external.py`` on a GPU machine compares all of them with their references. Under Triton's
interpreter on a CPU, the scan of mamba-ssm agrees with its reference. Shapes as in the operations' own files.
"""

# The packages are imported where they are called, since most of them cannot be imported without a GPU.

import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec, module_from_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldarnet.errors import UserError
from ldarnet.ops.packing import Packing
from ldarnet.ops.registry import register

_INSTALL = 'pip install --no-build-isolation ".[kernels]"'
_HALF = (torch.bfloat16, torch.float16)


class _Exchange(torch.autograd.Function):
    """Rows in another order, by an index that is its own inverse: so the gradient is exchanged in the same way.

    The gradient of ``index_select`` itself would be added row by row with atomic operations.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        return rows.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, drows: Tensor) -> tuple[Tensor, None]:  # pyrefly: ignore[bad-override]
        return drows.index_select(0, ctx.saved_tensors[0]), None


def _reversed_in_place(packing: Packing) -> Tensor:
    """(T,) index that reads every sequence backwards where it stands; its own inverse."""
    first_T = packing.starts[packing.sequence]
    return first_T + packing.lengths[packing.sequence] - 1 - packing.position


@cache
def _mamba_scan() -> Callable[..., Tensor]:
    """mamba-ssm's scan, which is Triton alone.

    ``mamba_ssm/__init__`` imports every model of the package, and these its compiled extensions: for the time of the
    import an empty module stands in for it, so that a build without CUDA extensions serves, and in a tenth of the time.
    """
    loaded, spec = sys.modules.get("mamba_ssm"), find_spec("mamba_ssm")
    assert spec is not None
    sys.modules["mamba_ssm"] = module_from_spec(spec)
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    finally:
        del sys.modules["mamba_ssm"]
        if loaded:
            sys.modules["mamba_ssm"] = loaded
    return mamba_chunk_scan_combined


@register("ssd", "mamba-ssm", devices=("cuda",), dtypes=(*_HALF, torch.float32), package="mamba_ssm", install=_INSTALL)
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
    """mamba-ssm's Triton scan; both directions are heads of one call, each with its own group of B and C.

    What direction 1 reads is turned round within each sequence, and its result turned back. float32 is multiplied as
    TF32. Chunks have at least 16 positions, whatever `chunk_size`.
    """
    T, K, H, P = x_TKHP.shape
    chunk_size = max(chunk_size, 16)
    states = x_TKHP.numel() / chunk_size * b_TKN.shape[2]  # (P, N) for each chunk and head
    if max(x_TKHP.numel(), states) >= 2**31:
        raise UserError(
            f"ops.ssd=mamba-ssm: {T:,} positions of width {H * P} at once are more than its 32-bit addresses reach; "
            "compute fewer windows at once (double training.accumulation)"
        )
    index_TK = torch.stack([torch.arange(T, device=x_TKHP.device), _reversed_in_place(packing)], 1) * K
    index = (index_TK + torch.arange(K, device=x_TKHP.device)).flatten()

    def turned(value: Tensor) -> Tensor:
        return _Exchange.apply(value.flatten(0, 1), index).unflatten(0, (T, K))

    y = _mamba_scan()(
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


@register(
    "convolution",
    "causal-conv1d",
    devices=("cuda",),
    dtypes=(*_HALF, torch.float32),
    package="causal_conv1d",
    install=_INSTALL,
)
def convolution(x_TC: Tensor, weight_KCW: Tensor, bias_KC: Tensor, packing: Packing) -> Tensor:
    """causal-conv1d's kernel; both directions are channels of one call. Takes 2 to 4 taps and C divisible by 4."""
    from causal_conv1d import causal_conv1d_fn

    T, C = x_TC.shape
    backwards = _reversed_in_place(packing)
    both = torch.cat([x_TC, _Exchange.apply(x_TC, backwards)], 1)
    y = causal_conv1d_fn(
        both.t()[None],
        weight_KCW.flatten(0, 1).to(x_TC.dtype),
        bias_KC.flatten().to(x_TC.dtype),
        seq_idx=packing.sequence.int()[None],
        activation="silu",
    )
    forward, backward = y[0].t().view(T, 2, C).unbind(1)
    return torch.stack([forward, _Exchange.apply(backward, backwards)], 1)


def _check_head_dim(name: str, q_THP: Tensor) -> None:
    features = q_THP.shape[2]
    if features % 8 or features > 256:
        raise UserError(
            f"ops.attention={name}: a head of {features} features is no multiple of 8, or more than 256; set "
            "ops.attention=torch, or choose another attn_cfg.num_heads"
        )


@register("attention", "torch-varlen", devices=("cuda",), dtypes=_HALF)
def varlen_attention(q_THP: Tensor, k_THP: Tensor, v_THP: Tensor, packing: Packing, window: int) -> Tensor:
    """The FlashAttention 2 that comes with torch. Takes heads of up to 256 features, a multiple of 8."""
    _check_head_dim("torch-varlen", q_THP)
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = packing.starts.int(), packing.max_length
    out = varlen_attn(q_THP, k_THP, v_THP, starts, starts, longest, longest, window_size=(window, window))
    assert isinstance(out, Tensor)
    return out


@register("attention", "flash-attn", devices=("cuda",), dtypes=_HALF, package="flash_attn", install=_INSTALL)
def flash_attention(q_THP: Tensor, k_THP: Tensor, v_THP: Tensor, packing: Packing, window: int) -> Tensor:
    """FlashAttention 2. Takes heads of up to 256 features, a multiple of 8."""
    _check_head_dim("flash-attn", q_THP)
    from flash_attn import flash_attn_varlen_func

    starts, longest = packing.starts.int(), packing.max_length
    return flash_attn_varlen_func(q_THP, k_THP, v_THP, starts, starts, longest, longest, window_size=(window, window))


@register(
    "attention",
    "flash-attn-3",
    devices=("cuda",),
    dtypes=_HALF,
    package="flash_attn_interface",
    install="python setup.py install in the folder hopper of https://github.com/Dao-AILab/flash-attention",
)
def flash_attention_3(q_THP: Tensor, k_THP: Tensor, v_THP: Tensor, packing: Packing, window: int) -> Tensor:
    """FlashAttention 3, for Hopper GPUs. Takes heads of up to 256 features, a multiple of 8.

    It is compiled for 64 features and more: of the work on heads of 32, half is spent on zeros.
    """
    _check_head_dim("flash-attn-3", q_THP)
    from flash_attn_interface import flash_attn_varlen_func

    starts, longest = packing.starts.int(), packing.max_length
    out = flash_attn_varlen_func(q_THP, k_THP, v_THP, starts, starts, longest, longest, window_size=(window, window))
    return out[0] if isinstance(out, tuple) else out  # older releases return the log-sum-exp, too
