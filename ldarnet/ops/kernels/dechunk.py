# ruff: noqa: ANN001, ANN202 (Triton supports no annotations but tl.constexpr)
"""Dechunking without a (T, D) intermediate.

The forward pass smooths the chunks in each direction (:func:`_scan`) and adds the mean over directions to the residual
of every base (:func:`_upsample`). The backward pass sums the gradient over the bases of each chunk
(:func:`_sum_bases`), runs the scans in reverse (:func:`_scan`), and computes the gradients of chunks and probabilities
(:func:`_chunk_gradients`).

Shapes: T packed bases, M packed chunks, S sequences, D width, K directions (1 or 2).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldarnet.ops.dechunk import MIN_PROBABILITY, directions
from ldarnet.ops.kernels.tiles import row_tile
from ldarnet.ops.packing import Packing
from ldarnet.ops.precision import at_least_fp32

STEPS, WIDTH = 32, 32
"""Chunks per scan step, and features per program."""

BASES = 4
"""Number of bases of a chunk that are summed per iteration."""


def dechunk(
    chunk_MD: Tensor,
    probability: Tensor,
    confidence_T: Tensor,
    residual_TD: Tensor,
    chunks: Packing,
    chunk_of_T: Tensor,
) -> Tensor:
    """Triton backend of `ldarnet.ops.dechunk.dechunk`. Saves no (T, D) tensor for backward."""
    acc_dtype = torch.promote_types(chunk_MD.dtype, torch.float32)
    p = at_least_fp32(probability).clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY).to(acc_dtype).contiguous()
    return _TritonDechunk.apply(chunk_MD, p, confidence_T, residual_TD, chunks.starts, chunks.sequence, chunk_of_T)


class _TritonDechunk(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        chunk_MD: Tensor,
        p: Tensor,
        confidence_T: Tensor,
        residual_TD: Tensor,
        starts: Tensor,
        sequence_M: Tensor,
        chunk_of_T: Tensor,
    ) -> Tensor:
        chunk_MD, residual_TD = chunk_MD.contiguous(), residual_TD.contiguous()
        state_KMD = _states(chunk_MD, p, starts, reverse=False)
        T, D = residual_TD.shape
        out_TD = torch.empty_like(residual_TD, dtype=torch.promote_types(residual_TD.dtype, p.dtype))
        rows, columns, warps = row_tile(D)
        _upsample[(triton.cdiv(T, rows),)](
            state_KMD,
            residual_TD,
            chunk_of_T,
            out_TD,
            T,
            len(chunk_MD),
            directions(p),
            D,
            rows,
            columns,
            num_warps=warps,
        )
        ctx.save_for_backward(chunk_MD, p, state_KMD, starts, sequence_M, chunk_of_T)
        ctx.dtypes = confidence_T.dtype, residual_TD.dtype
        return out_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_TD: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        chunk_MD, p, state_KMD, starts, sequence_M, chunk_of_T = ctx.saved_tensors
        confidence_dtype, residual_dtype = ctx.dtypes
        (M, D), K = chunk_MD.shape, directions(p)
        dout_TD = dout_TD.contiguous()
        first_base_M = torch.searchsorted(chunk_of_T, torch.arange(M + 1, device=chunk_of_T.device))
        dz_MD = p.new_empty(M, D)
        dconfidence_T = torch.empty_like(chunk_of_T, dtype=confidence_dtype)
        bases, columns, warps = row_tile(D, BASES * triton.next_power_of_2(D))
        _sum_bases[(M,)](
            dout_TD, state_KMD, first_base_M, dz_MD, dconfidence_T, M, K, D, bases, columns, num_warps=warps
        )
        dstate_KMD = _states(dz_MD, p, starts, reverse=True)
        dchunk_MD, dp = torch.empty_like(chunk_MD), torch.empty_like(p)
        rows, columns, warps = row_tile(D)
        _chunk_gradients[(triton.cdiv(M, rows),)](
            chunk_MD,
            p,
            state_KMD,
            dstate_KMD,
            starts,
            sequence_M,
            dchunk_MD,
            dp,
            M,
            K,
            p.dim() == 1,
            D,
            rows,
            columns,
            num_warps=warps,
        )
        return dchunk_MD, dp, dconfidence_T, dout_TD.to(residual_dtype), None, None, None


def _states(value_MD: Tensor, p: Tensor, starts: Tensor, *, reverse: bool) -> Tensor:
    """Scan the chunks in each direction; return the states, (K, M, D).

    If ``reverse``, ``value_MD`` is the gradient of the smoothed chunks, and each scan runs in the opposite order.
    """
    (M, D), K = value_MD.shape, directions(p)
    state_KMD = p.new_empty(K, M, D)
    width = min(triton.next_power_of_2(D), WIDTH)
    _scan[len(starts) - 1, triton.cdiv(D, width), K](
        value_MD, p, starts, state_KMD, M, K, p.dim() == 1, reverse, D, STEPS, width, num_warps=4
    )
    return state_KMD


@triton.jit
def _chain(decay_1, value_1, decay_2, value_2):
    """Compose two steps of the form state -> decay * state + value."""
    return decay_1 * decay_2, decay_2 * value_1 + value_2


@triton.jit(do_not_specialize=["M"])
def _scan(
    value_ptr,
    p_ptr,
    starts_ptr,
    state_ptr,
    M,
    K: tl.constexpr,
    SHARED: tl.constexpr,
    REVERSE: tl.constexpr,
    D: tl.constexpr,
    STEPS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Scan one direction of one sequence for a block of features.

    If SHARED, both directions use the same probabilities.

    In the forward pass, the values x (value_ptr) are the chunks. The result is s_j = p_j x_j + (1 - p_j) s_i, where
    chunk i is just before j in the order of the direction.

    In the backward pass (REVERSE), the values x are the gradient of the smoothed chunks. The result g is the gradient
    of s: g_j = x_j / K + (1 - p_i) g_i, where chunk i is just after j in the order of the direction. The factor 1/K
    comes from the mean over directions.
    """
    dtype = state_ptr.dtype.element_ty
    k = tl.program_id(2)
    start = tl.load(starts_ptr + tl.program_id(0))
    stop = tl.load(starts_ptr + tl.program_id(0) + 1)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    left_to_right = (k == 1) if REVERSE else (k == 0)
    origin = tl.where(left_to_right, start, stop - 1)
    stride = tl.where(left_to_right, 1, -1)
    state_ptr += k * M.to(tl.int64) * D
    if not SHARED:
        p_ptr += k * M
    step = tl.arange(0, STEPS)
    state = tl.zeros((WIDTH,), dtype)
    for first in range(0, stop - start, STEPS):
        number = first + step
        row = origin + stride * number
        real = number < stop - start
        inside = real[:, None] & (column < D)
        x = tl.load(value_ptr + row[:, None] * D + column, mask=inside, other=0.0).to(dtype)
        if REVERSE:
            p = tl.load(p_ptr + row - stride, mask=real & (number > 0), other=0.0)
            x = x / K
        else:
            p = tl.load(p_ptr + row, mask=real, other=0.0)
            x = x * p[:, None]
        decay = (1 - p)[:, None] + tl.zeros((STEPS, WIDTH), dtype)
        decay, x = tl.associative_scan((decay, x), 0, _chain)
        x += decay * state[None, :]
        tl.store(state_ptr + row[:, None] * D + column, x, mask=inside)
        state = tl.sum(tl.where((step == STEPS - 1)[:, None], x, 0.0), axis=0)


@triton.jit(do_not_specialize=["T", "M"])
def _upsample(
    state_ptr,
    residual_ptr,
    chunk_of_ptr,
    out_ptr,
    T,
    M,
    K: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    dtype = out_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = (row < T)[:, None] & (column < D)
    chunk = tl.load(chunk_of_ptr + row, mask=row < T, other=0)[:, None]
    z = tl.load(state_ptr + chunk * D + column, mask=inside, other=0.0).to(dtype)
    if K == 2:
        z = (z + tl.load(state_ptr + (chunk + M) * D + column, mask=inside, other=0.0).to(dtype)) / 2
    residual = tl.load(residual_ptr + row[:, None] * D + column, mask=inside, other=0.0).to(dtype)
    tl.store(out_ptr + row[:, None] * D + column, residual + z, mask=inside)


@triton.jit(do_not_specialize=["M"])
def _sum_bases(
    dout_ptr,
    state_ptr,
    first_base_ptr,
    dz_ptr,
    dconfidence_ptr,
    M,
    K: tl.constexpr,
    D: tl.constexpr,
    BASES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    dtype = dz_ptr.dtype.element_ty
    chunk = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    wide = column < D
    z = tl.load(state_ptr + chunk * D + column, mask=wide, other=0.0)
    if K == 2:
        z = (z + tl.load(state_ptr + (chunk + M) * D + column, mask=wide, other=0.0)) / 2
    dz = tl.zeros((BASES, COLUMNS), dtype)
    stop = tl.load(first_base_ptr + chunk + 1)
    for first in range(tl.load(first_base_ptr + chunk), stop, BASES):
        base = first + tl.arange(0, BASES)
        inside = (base < stop)[:, None] & wide
        dout = tl.load(dout_ptr + base[:, None] * D + column, mask=inside, other=0.0).to(dtype)
        dz += dout
        tl.store(dconfidence_ptr + base, tl.sum(dout * z, axis=1), mask=base < stop)
    tl.store(dz_ptr + chunk * D + column, tl.sum(dz, axis=0), mask=wide)


@triton.jit(do_not_specialize=["M"])
def _chunk_gradients(
    chunk_ptr,
    p_ptr,
    state_ptr,
    dstate_ptr,
    starts_ptr,
    sequence_ptr,
    dchunk_ptr,
    dp_ptr,
    M,
    K: tl.constexpr,
    SHARED: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    dtype = dp_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    real = row < M
    inside = real[:, None] & (column < D)
    offset = row[:, None] * D + column
    sequence = tl.load(sequence_ptr + row, mask=real, other=0)
    has_left = real & (row > tl.load(starts_ptr + sequence))
    chunk = tl.load(chunk_ptr + offset, mask=inside, other=0.0).to(dtype)
    p = tl.load(p_ptr + row, mask=real, other=0.0)
    left = tl.load(state_ptr + offset - D, mask=has_left[:, None] & (column < D), other=0.0)
    dforward = tl.load(dstate_ptr + offset, mask=inside, other=0.0)
    if K == 1:
        tl.store(dchunk_ptr + offset, dforward * p[:, None], mask=inside)
        tl.store(dp_ptr + row, tl.sum(dforward * (chunk - left), axis=1), mask=real)
    else:
        other_direction = M.to(tl.int64) * D
        has_right = real & (row + 1 < tl.load(starts_ptr + sequence + 1))
        right = tl.load(state_ptr + other_direction + offset + D, mask=has_right[:, None] & (column < D), other=0.0)
        dbackward = tl.load(dstate_ptr + other_direction + offset, mask=inside, other=0.0)
        if SHARED:
            tl.store(dchunk_ptr + offset, (dforward + dbackward) * p[:, None], mask=inside)
            tl.store(dp_ptr + row, tl.sum(dforward * (chunk - left) + dbackward * (chunk - right), axis=1), mask=real)
        else:
            other_p = tl.load(p_ptr + M + row, mask=real, other=0.0)
            dchunk = dforward * p[:, None] + dbackward * other_p[:, None]
            tl.store(dchunk_ptr + offset, dchunk, mask=inside)
            tl.store(dp_ptr + row, tl.sum(dforward * (chunk - left), axis=1), mask=real)
            tl.store(dp_ptr + M + row, tl.sum(dbackward * (chunk - right), axis=1), mask=real)
