# ruff: noqa: ANN001, ANN202 (Triton supports no annotations but tl.constexpr)
"""Fused residual addition and RMSNorm, in one pass over the rows.

Shapes: T packed positions, D width, P programs.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldarnet.ops.kernels.tiles import PROGRAMS, row_tile
from ldarnet.ops.norm import EPSILON


def add_norm(
    branch_TD: Tensor | None, residual_TD: Tensor, weight_D: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Triton backend of :func:`ldarnet.ops.norm.add_norm`; saves only the sum and the weight for backward."""
    return _TritonAddNorm.apply(branch_TD, residual_TD, weight_D, dtype)


class _TritonAddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, branch_TD: Tensor | None, residual_TD: Tensor, weight_D: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        T, D = residual_TD.shape
        residual_TD = residual_TD.contiguous()
        sum_TD = residual_TD if branch_TD is None else torch.empty_like(residual_TD)
        normed_TD = torch.empty_like(sum_TD, dtype=dtype)
        rows, columns, warps = row_tile(D)
        _forward[(triton.cdiv(T, rows),)](
            None if branch_TD is None else branch_TD.contiguous(),
            residual_TD,
            weight_D,
            normed_TD,
            sum_TD,
            T,
            D,
            EPSILON,
            rows,
            columns,
            num_warps=warps,
        )
        ctx.save_for_backward(sum_TD, weight_D)
        ctx.set_materialize_grads(False)  # the sum after the last norm of a stack is unused: no gradient of zeros
        ctx.dtype = dtype
        ctx.branch_dtype = None if branch_TD is None else branch_TD.dtype
        return normed_TD, sum_TD

    @staticmethod
    @once_differentiable
    def backward(  # pyrefly: ignore[bad-override]
        ctx: Any, dnormed_TD: Tensor | None, dsum_TD: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        sum_TD, weight_D = ctx.saved_tensors
        if dnormed_TD is None:
            dnormed_TD = torch.zeros_like(sum_TD, dtype=ctx.dtype)
        T, D = sum_TD.shape
        dresidual_TD = torch.empty_like(sum_TD)
        dbranch_TD = None if ctx.branch_dtype is None else torch.empty_like(sum_TD, dtype=ctx.branch_dtype)
        rows, columns, warps = row_tile(D)
        programs = min(triton.cdiv(T, rows), PROGRAMS)
        dweight_PD = sum_TD.new_empty(programs, D)
        _backward[(programs,)](
            sum_TD,
            weight_D,
            dnormed_TD.contiguous(),
            None if dsum_TD is None else dsum_TD.contiguous(),
            dbranch_TD,
            dresidual_TD,
            dweight_PD,
            T,
            D,
            EPSILON,
            rows,
            columns,
            num_warps=warps,
        )
        return dbranch_TD, dresidual_TD, dweight_PD.sum(0).to(weight_D.dtype), None


@triton.jit(do_not_specialize=["T"])
def _forward(
    branch_ptr,
    residual_ptr,
    weight_ptr,
    normed_ptr,
    sum_ptr,
    T,
    D: tl.constexpr,
    EPSILON: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    dtype = sum_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    offset = row[:, None] * D + column
    inside = (row < T)[:, None] & (column < D)
    x = tl.load(residual_ptr + offset, mask=inside, other=0.0)
    if branch_ptr is not None:
        x += tl.load(branch_ptr + offset, mask=inside, other=0.0).to(dtype)
        tl.store(sum_ptr + offset, x, mask=inside)
    weight = tl.load(weight_ptr + column, mask=column < D, other=0.0).to(dtype)
    scale = tl.rsqrt(tl.sum(x * x, axis=1) / D + EPSILON)
    tl.store(normed_ptr + offset, x * scale[:, None] * weight, mask=inside)


@triton.jit(do_not_specialize=["T"])
def _backward(
    sum_ptr,
    weight_ptr,
    dnormed_ptr,
    dsum_ptr,
    dbranch_ptr,
    dresidual_ptr,
    dweight_ptr,
    T,
    D: tl.constexpr,
    EPSILON: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    dtype = sum_ptr.dtype.element_ty
    column = tl.arange(0, COLUMNS)
    weight = tl.load(weight_ptr + column, mask=column < D, other=0.0).to(dtype)
    dweight = tl.zeros((ROWS, COLUMNS), dtype)
    for first in range(tl.program_id(0) * ROWS, T, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS).to(tl.int64)
        offset = row[:, None] * D + column
        inside = (row < T)[:, None] & (column < D)
        x = tl.load(sum_ptr + offset, mask=inside, other=0.0)
        dnormed = tl.load(dnormed_ptr + offset, mask=inside, other=0.0).to(dtype)
        scale = tl.rsqrt(tl.sum(x * x, axis=1) / D + EPSILON)[:, None]
        weighted = dnormed * weight
        mean_dot = tl.sum(weighted * x, axis=1)[:, None] / D
        dx = scale * (weighted - x * (scale * scale * mean_dot))
        if dsum_ptr is not None:
            dx += tl.load(dsum_ptr + offset, mask=inside, other=0.0).to(dtype)
        dweight += dnormed * x * scale
        if dbranch_ptr is not None:
            tl.store(dbranch_ptr + offset, dx, mask=inside)
        tl.store(dresidual_ptr + offset, dx, mask=inside)
    tl.store(dweight_ptr + tl.program_id(0) * D + column, tl.sum(dweight, axis=0), mask=column < D)
