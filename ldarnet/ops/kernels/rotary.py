# ruff: noqa: ANN001, ANN202 (Triton supports no annotations but tl.constexpr)
"""Rotary position embedding of fused queries, keys and values, without a concatenation in either direction.

Shapes: T packed positions, H heads, P head dimension, F = 3 * H * P features of the fused projection, R pairs of
rotated features.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldarnet.ops.kernels.tiles import row_tile
from ldarnet.ops.packing import Packing
from ldarnet.ops.rotary import cos_and_sin


def rotary(qkv_TF: Tensor, packing: Packing, heads: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Triton backend of :func:`ldarnet.ops.rotary.rotary`; the values are a view of the input."""
    cos_TR, sin_TR = cos_and_sin(packing.position, width, torch.promote_types(qkv_TF.dtype, torch.float32))
    return _TritonRotary.apply(qkv_TF, cos_TR, sin_TR, heads)


class _TritonRotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_TF: Tensor, cos_TR: Tensor, sin_TR: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        qkv_TF = qkv_TF.contiguous()
        v_THP = qkv_TF.unflatten(-1, (3, heads, -1))[:, 2]
        q_THP, k_THP = (torch.empty_like(v_THP, memory_format=torch.contiguous_format) for _ in range(2))
        _launch(q_THP, k_THP, None, qkv_TF, cos_TR, sin_TR)
        ctx.save_for_backward(cos_TR, sin_TR)
        return q_THP, k_THP, v_THP

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients_THP: Tensor) -> tuple[Tensor, None, None, None]:  # pyrefly: ignore[bad-override]
        dq_THP, dk_THP, dv_THP = (gradient.contiguous() for gradient in gradients_THP)
        dqkv_TF = dq_THP.new_empty(len(dq_THP), 3 * dq_THP[0].numel())
        _launch(dq_THP, dk_THP, dv_THP, dqkv_TF, *ctx.saved_tensors)
        return dqkv_TF, None, None, None


def _launch(q_THP: Tensor, k_THP: Tensor, v_THP: Tensor | None, qkv_TF: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> None:
    """Rotate queries and keys out of the fused rows; with values, rotate back and write all three into them."""
    T, H, P = q_THP.shape
    pairs = cos_TR.shape[1]
    rows, columns, warps = row_tile(max(pairs, 1))
    rest, values = (triton.next_power_of_2(features) for features in (P - 2 * pairs, P))
    _rotate[(triton.cdiv(T * H, rows),)](
        q_THP, k_THP, v_THP, qkv_TF, cos_TR, sin_TR, T, H, P, pairs, rows, columns, rest, values, num_warps=warps
    )


@triton.jit
def _copy(source_ptr, target_ptr, real, FEATURES: tl.constexpr, COLUMNS: tl.constexpr):
    column = tl.arange(0, COLUMNS)
    inside = real[:, None] & (column < FEATURES)
    tl.store(target_ptr[:, None] + column, tl.load(source_ptr[:, None] + column, mask=inside), mask=inside)


@triton.jit(do_not_specialize=["T"])
def _rotate(
    q_ptr,
    k_ptr,
    v_ptr,
    qkv_ptr,
    cos_ptr,
    sin_ptr,
    T,
    H: tl.constexpr,
    P: tl.constexpr,
    R: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    REST: tl.constexpr,
    VALUES: tl.constexpr,
):
    dtype = cos_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # one per position and head
    position, head = row // H, row % H
    real = position < T
    column = tl.arange(0, COLUMNS)
    inside = real[:, None] & (column < R)
    angle = position[:, None] * R + column
    cos = tl.load(cos_ptr + angle, mask=inside, other=0.0)
    sin = tl.load(sin_ptr + angle, mask=inside, other=0.0)
    for part in tl.static_range(2):
        source = qkv_ptr + position * (3 * H * P) + part * H * P + head * P
        target = (q_ptr if part == 0 else k_ptr) + row * P
        if v_ptr is not None:
            source, target = target, source
        first = tl.load(source[:, None] + column, mask=inside, other=0.0).to(dtype)
        second = tl.load(source[:, None] + column + R, mask=inside, other=0.0).to(dtype)
        turned = second * sin
        if v_ptr is not None:
            turned = -turned
        tl.store(target[:, None] + column, first * cos - turned, mask=inside)
        turned = first * sin
        if v_ptr is not None:
            turned = -turned
        tl.store(target[:, None] + column + R, second * cos + turned, mask=inside)
        if P > 2 * R:
            _copy(source + 2 * R, target + 2 * R, real, P - 2 * R, REST)
    if v_ptr is not None:
        _copy(v_ptr + row * P, qkv_ptr + position * (3 * H * P) + 2 * H * P + head * P, real, P, VALUES)
