# ruff: noqa: ANN001, ANN202 (Triton supports no annotations but tl.constexpr)
"""Boundary probabilities from queries and keys, without a (T, D) intermediate.

Shapes: T packed positions, D width.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldarnet.ops.kernels.tiles import row_tile
from ldarnet.ops.packing import Packing
from ldarnet.ops.router import MIN_NORM


def router(q_TD: Tensor, k_TD: Tensor, packing: Packing) -> Tensor:
    """Triton backend of :func:`ldarnet.ops.router.router`; saves only its arguments for backward."""
    return _TritonRouter.apply(q_TD, k_TD, packing.position)


class _TritonRouter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_TD: Tensor, k_TD: Tensor, position_T: Tensor) -> Tensor:
        q_TD, k_TD = q_TD.contiguous(), k_TD.contiguous()
        T, D = q_TD.shape
        p_T = q_TD.new_empty(T)
        rows, columns, warps = row_tile(D)
        _forward[(triton.cdiv(T, rows),)](q_TD, k_TD, position_T, p_T, T, D, MIN_NORM, rows, columns, num_warps=warps)
        ctx.save_for_backward(q_TD, k_TD, position_T)
        return p_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dp_T: Tensor) -> tuple[Tensor, Tensor, None]:  # pyrefly: ignore[bad-override]
        q_TD, k_TD, position_T = ctx.saved_tensors
        T, D = q_TD.shape
        dq_TD, dk_TD = torch.empty_like(q_TD), torch.empty_like(k_TD)
        rows, columns, warps = row_tile(D)
        _backward[(triton.cdiv(T, rows),)](
            q_TD,
            k_TD,
            position_T,
            dp_T.contiguous(),
            dq_TD,
            dk_TD,
            T,
            D,
            MIN_NORM,
            rows,
            columns,
            num_warps=warps,
        )
        return dq_TD, dk_TD, None


@triton.jit
def _unit_rows(x_ptr, row, column, real, D: tl.constexpr, MIN_NORM: tl.constexpr):
    """Load rows; return them scaled to norm 1, and their norms."""
    x = tl.load(x_ptr + row[:, None] * D + column, mask=real[:, None] & (column < D), other=0.0)
    norm = tl.maximum(tl.sqrt(tl.sum(x * x, axis=1)), MIN_NORM)
    return x / norm[:, None], norm


@triton.jit
def _dot(x, y):
    return tl.sum(x * y, axis=1)


@triton.jit(do_not_specialize=["T"])
def _forward(
    q_ptr,
    k_ptr,
    position_ptr,
    p_ptr,
    T,
    D: tl.constexpr,
    MIN_NORM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    has_left = tl.load(position_ptr + row, mask=row < T, other=0) > 0
    q, _ = _unit_rows(q_ptr, row, column, has_left, D, MIN_NORM)
    k, _ = _unit_rows(k_ptr, row, column, has_left, D, MIN_NORM)
    q_left, _ = _unit_rows(q_ptr, row - 1, column, has_left, D, MIN_NORM)
    k_left, _ = _unit_rows(k_ptr, row - 1, column, has_left, D, MIN_NORM)
    p = 0.5 - 0.25 * (_dot(q_left, k) + _dot(q, k_left))
    p = tl.where(p < 0, 0.0, tl.where(p > 1, 1.0, p))  # keeps NaN
    tl.store(p_ptr + row, tl.where(has_left, p, 1.0), mask=row < T)


@triton.jit
def _slope(p_gradient, cos_sum):
    """Gradient of both terms of a cosine; zero where the probability is clamped."""
    p = 0.5 - 0.25 * cos_sum
    return tl.where((p < 0) | (p > 1), 0.0, -0.25 * p_gradient)


@triton.jit
def _through_norm(d_unit, unit, dot, norm, MIN_NORM: tl.constexpr):
    """Gradient of rows, given the gradient of the rows scaled to norm 1 and its dot product with them."""
    dot = tl.where(norm > MIN_NORM, dot, 0.0)
    return (d_unit - dot[:, None] * unit) / norm[:, None]


@triton.jit(do_not_specialize=["T"])
def _backward(
    q_ptr,
    k_ptr,
    position_ptr,
    dp_ptr,
    dq_ptr,
    dk_ptr,
    T,
    D: tl.constexpr,
    MIN_NORM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    has_left = tl.load(position_ptr + row, mask=row < T, other=0) > 0
    has_right = tl.load(position_ptr + row + 1, mask=row + 1 < T, other=0) > 0
    q, q_norm = _unit_rows(q_ptr, row, column, row < T, D, MIN_NORM)
    k, k_norm = _unit_rows(k_ptr, row, column, row < T, D, MIN_NORM)
    q_left, _ = _unit_rows(q_ptr, row - 1, column, has_left, D, MIN_NORM)
    k_left, _ = _unit_rows(k_ptr, row - 1, column, has_left, D, MIN_NORM)
    q_right, _ = _unit_rows(q_ptr, row + 1, column, has_right, D, MIN_NORM)
    k_right, _ = _unit_rows(k_ptr, row + 1, column, has_right, D, MIN_NORM)
    q_dot_left, q_dot_right = _dot(q, k_left), _dot(q, k_right)
    k_dot_left, k_dot_right = _dot(k, q_left), _dot(k, q_right)
    left = _slope(tl.load(dp_ptr + row, mask=has_left, other=0.0), q_dot_left + k_dot_left)
    right = _slope(tl.load(dp_ptr + row + 1, mask=has_right, other=0.0), q_dot_right + k_dot_right)
    dq = left[:, None] * k_left + right[:, None] * k_right
    dk = left[:, None] * q_left + right[:, None] * q_right
    dq = _through_norm(dq, q, left * q_dot_left + right * q_dot_right, q_norm, MIN_NORM)
    dk = _through_norm(dk, k, left * k_dot_left + right * k_dot_right, k_norm, MIN_NORM)
    offset = row[:, None] * D + column
    inside = (row < T)[:, None] & (column < D)
    tl.store(dq_ptr + offset, dq, mask=inside)
    tl.store(dk_ptr + offset, dk, mask=inside)
