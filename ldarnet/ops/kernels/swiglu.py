# ruff: noqa: ANN001, ANN202 (Triton supports no annotations but tl.constexpr)
"""Fused SwiGLU gate, forward and backward.

Shapes: T packed positions, F = 2 * hidden width.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldarnet.ops.kernels.tiles import accumulator, row_tile, silu, silu_slope

MAX_TILE_WIDTH = 1024


def swiglu(x_TF: Tensor) -> Tensor:
    """Triton backend of :func:`ldarnet.ops.swiglu.swiglu`; saves only its input for backward."""
    return _TritonSwiGLU.apply(x_TF)


class _TritonSwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TF: Tensor) -> Tensor:
        x_TF = x_TF.contiguous()
        ctx.save_for_backward(x_TF)
        out = x_TF.new_empty(len(x_TF), x_TF.shape[1] // 2)
        _launch(_forward, x_TF, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        (x_TF,) = ctx.saved_tensors
        dx_TF = torch.empty_like(x_TF)
        _launch(_backward, x_TF, dout.contiguous(), dx_TF)
        return dx_TF


def _launch(kernel: Any, x_TF: Tensor, *others: Tensor) -> None:
    T, hidden = len(x_TF), x_TF.shape[1] // 2
    rows, columns, warps = row_tile(min(hidden, MAX_TILE_WIDTH))
    grid = triton.cdiv(T, rows), triton.cdiv(hidden, columns)
    kernel[grid](x_TF, *others, T, hidden, accumulator(x_TF.dtype), rows, columns, num_warps=warps)


@triton.jit
def _tile(T, HIDDEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return this program's offsets into y, its offsets into the output, and the mask for both."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < T)[:, None] & (column < HIDDEN)
    return row[:, None] * (2 * HIDDEN) + column, row[:, None] * HIDDEN + column, inside


@triton.jit(do_not_specialize=["T"])
def _forward(x_ptr, out_ptr, T, HIDDEN: tl.constexpr, DTYPE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    source, target, inside = _tile(T, HIDDEN, ROWS, COLUMNS)
    y = tl.load(x_ptr + source, mask=inside, other=0.0).to(DTYPE)
    gate = tl.load(x_ptr + source + HIDDEN, mask=inside, other=0.0).to(DTYPE)
    tl.store(out_ptr + target, silu(gate) * y, mask=inside)


@triton.jit(do_not_specialize=["T"])
def _backward(
    x_ptr,
    dout_ptr,
    dx_ptr,
    T,
    HIDDEN: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    source, target, inside = _tile(T, HIDDEN, ROWS, COLUMNS)
    y = tl.load(x_ptr + source, mask=inside, other=0.0).to(DTYPE)
    gate = tl.load(x_ptr + source + HIDDEN, mask=inside, other=0.0).to(DTYPE)
    dout = tl.load(dout_ptr + target, mask=inside, other=0.0).to(DTYPE)
    tl.store(dx_ptr + source, dout * silu(gate), mask=inside)
    tl.store(dx_ptr + source + HIDDEN, dout * y * silu_slope(gate), mask=inside)
