# ruff: noqa: ANN001, ANN202 (Triton supports no annotations but tl.constexpr)
"""Fused gated RMSNorm of one or both directions, in one pass over the rows.

Shapes: T packed positions, K directions (1 or 2), E inner width, P programs.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldarnet.ops.columns import GradientBuffer, gradient_memory
from ldarnet.ops.kernels.tiles import PROGRAMS, accumulator, row_tile, separate_rows, silu, silu_slope
from ldarnet.ops.norm import EPSILON


def gated_norm(y_TKE: Tensor, z_TE: Tensor, weight_KE: Tensor, dz: GradientBuffer | None = None) -> Tensor:
    """Triton backend of :func:`ldarnet.ops.gated_norm.gated_norm`; saves only its arguments for backward.

    Rows of z may be strided, as in a slice of a wider tensor.
    """
    return _TritonGatedNorm.apply(y_TKE, z_TE, weight_KE, dz)


class _TritonGatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_TKE: Tensor, z_TE: Tensor, weight_KE: Tensor, dz: GradientBuffer | None) -> Tensor:
        T, K, E = y_TKE.shape
        y_TKE, weight_KE = y_TKE.contiguous(), weight_KE.contiguous()
        z_TE = separate_rows(z_TE, 1)
        out_TE = y_TKE.new_empty(T, E)
        rows, columns, warps = row_tile(E)
        _forward[(triton.cdiv(T, rows),)](
            y_TKE,
            z_TE,
            weight_KE,
            out_TE,
            T,
            z_TE.stride(0),
            K,
            E,
            EPSILON,
            accumulator(y_TKE.dtype, z_TE.dtype),
            rows,
            columns,
            num_warps=warps,
        )
        ctx.dz = dz
        ctx.save_for_backward(y_TKE, z_TE, weight_KE)
        return out_TE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_TE: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # pyrefly: ignore[bad-override]
        y_TKE, z_TE, weight_KE = ctx.saved_tensors
        T, K, E = y_TKE.shape
        dy_TKE, dz_TE = torch.empty_like(y_TKE), gradient_memory(z_TE, ctx.dz)
        rows, columns, warps = row_tile(E)
        programs = min(triton.cdiv(T, rows), PROGRAMS)
        acc_dtype = torch.promote_types(torch.promote_types(y_TKE.dtype, z_TE.dtype), torch.float32)
        dweight_PKE = weight_KE.new_empty(programs, *weight_KE.shape, dtype=acc_dtype)
        _backward[(programs,)](
            y_TKE,
            z_TE,
            weight_KE,
            dout_TE.contiguous(),
            dy_TKE,
            dz_TE,
            dweight_PKE,
            T,
            z_TE.stride(0),
            K,
            E,
            EPSILON,
            rows,
            columns,
            num_warps=warps,
        )
        return dy_TKE, dz_TE, dweight_PKE.sum(0).to(weight_KE.dtype), None


@triton.jit(do_not_specialize=["T"])
def _forward(
    y_ptr,
    z_ptr,
    weight_ptr,
    out_ptr,
    T,
    Z_STRIDE: tl.constexpr,
    K: tl.constexpr,
    E: tl.constexpr,
    EPSILON: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = (row < T)[:, None] & (column < E)
    gate = silu(tl.load(z_ptr + row[:, None] * Z_STRIDE + column, mask=inside, other=0.0).to(DTYPE))
    out = tl.zeros((ROWS, COLUMNS), DTYPE)
    for k in tl.static_range(K):
        y = tl.load(y_ptr + row[:, None] * (K * E) + k * E + column, mask=inside, other=0.0).to(DTYPE)
        weight = tl.load(weight_ptr + k * E + column, mask=column < E, other=0.0).to(DTYPE)
        gated = y * gate
        scale = tl.rsqrt(tl.sum(gated * gated, axis=1) / E + EPSILON)[:, None]
        out += gated * scale * weight
    tl.store(out_ptr + row[:, None] * E + column, out / K, mask=inside)


@triton.jit
def _direction(y, gate, dout, weight, E: tl.constexpr, EPSILON: tl.constexpr):
    """Return the gradients of the gated values and of the weight in one direction.

    The gradient of the weight is not summed over rows.
    """
    gated = y * gate
    scale = tl.rsqrt(tl.sum(gated * gated, axis=1) / E + EPSILON)[:, None]
    weighted = dout * weight
    mean_dot = tl.sum(weighted * gated, axis=1)[:, None] / E
    return scale * (weighted - gated * (scale * scale * mean_dot)), dout * gated * scale


@triton.jit(do_not_specialize=["T"])
def _backward(
    y_ptr,
    z_ptr,
    weight_ptr,
    dout_ptr,
    dy_ptr,
    dz_ptr,
    dweight_ptr,
    T,
    Z_STRIDE: tl.constexpr,
    K: tl.constexpr,
    E: tl.constexpr,
    EPSILON: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    dtype = dweight_ptr.dtype.element_ty
    column = tl.arange(0, COLUMNS)
    weight_0 = tl.load(weight_ptr + column, mask=column < E, other=0.0).to(dtype)
    # With one direction, the variables of direction 1 are unused and take no registers.
    weight_1 = tl.load(weight_ptr + (K - 1) * E + column, mask=column < E, other=0.0).to(dtype)
    dweight_0 = tl.zeros((ROWS, COLUMNS), dtype)
    dweight_1 = tl.zeros((ROWS, COLUMNS), dtype)
    for first in range(tl.program_id(0) * ROWS, T, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS).to(tl.int64)
        inside = (row < T)[:, None] & (column < E)
        offset_0 = row[:, None] * (K * E) + column
        offset = row[:, None] * E + column
        y_0 = tl.load(y_ptr + offset_0, mask=inside, other=0.0).to(dtype)
        z = tl.load(z_ptr + row[:, None] * Z_STRIDE + column, mask=inside, other=0.0).to(dtype)
        dout = tl.load(dout_ptr + offset, mask=inside, other=0.0).to(dtype) / K
        gate = silu(z)
        dgated_0, row_dweight_0 = _direction(y_0, gate, dout, weight_0, E, EPSILON)
        dweight_0 += row_dweight_0
        tl.store(dy_ptr + offset_0, dgated_0 * gate, mask=inside)
        dgate = dgated_0 * y_0
        if K == 2:
            y_1 = tl.load(y_ptr + offset_0 + E, mask=inside, other=0.0).to(dtype)
            dgated_1, row_dweight_1 = _direction(y_1, gate, dout, weight_1, E, EPSILON)
            dweight_1 += row_dweight_1
            tl.store(dy_ptr + offset_0 + E, dgated_1 * gate, mask=inside)
            dgate += dgated_1 * y_1
        tl.store(dz_ptr + row[:, None] * Z_STRIDE + column, dgate * silu_slope(z), mask=inside)
    target = dweight_ptr + tl.program_id(0) * (K * E) + column
    tl.store(target, tl.sum(dweight_0, axis=0), mask=column < E)
    if K == 2:
        tl.store(target + E, tl.sum(dweight_1, axis=0), mask=column < E)
