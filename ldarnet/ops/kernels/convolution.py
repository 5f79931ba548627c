# ruff: noqa: ANN001, ANN202 (Triton supports no annotations but tl.constexpr)
"""Mamba-2's short convolution in both directions at once, without reversing the input.

Direction 0 reads the positions before the current one, direction 1 the positions after it. Sequences are zero-padded.

Shapes: T packed positions, C channels, K = 2 directions, W taps, P programs, R terms (W taps, then the bias, padded
to a power of two).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldarnet.ops.kernels.tiles import PROGRAMS, accumulator, silu, silu_slope
from ldarnet.ops.packing import Packing

POSITIONS, CHANNELS, WARPS = 32, 64, 8
"""Tile shape and number of warps: 8 elements per thread."""


def convolution(x_TC: Tensor, weight_KCW: Tensor, bias_KC: Tensor, packing: Packing) -> Tensor:
    """Triton backend of :func:`ldarnet.ops.convolution.convolution`; saves only its arguments.

    Rows of x may be strided, as in a slice of a wider tensor.
    """
    return _TritonConvolution.apply(x_TC, weight_KCW, bias_KC, packing.starts, packing.sequence)


class _TritonConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TC: Tensor, weight_KCW: Tensor, bias_KC: Tensor, starts: Tensor, sequence_T: Tensor
    ) -> Tensor:
        T, C = x_TC.shape
        x_TC = x_TC if x_TC.stride(1) == 1 else x_TC.contiguous()
        weight_KCW, bias_KC = weight_KCW.contiguous(), bias_KC.contiguous()
        out_TKC = x_TC.new_empty(T, 2, C)
        channels = min(triton.next_power_of_2(C), CHANNELS)
        _forward[triton.cdiv(T, POSITIONS), triton.cdiv(C, channels)](
            x_TC,
            weight_KCW,
            bias_KC,
            starts,
            sequence_T,
            out_TKC,
            T,
            x_TC.stride(0),
            C,
            weight_KCW.shape[2],
            accumulator(x_TC.dtype),
            POSITIONS,
            channels,
            num_warps=WARPS,
        )
        ctx.save_for_backward(x_TC, weight_KCW, bias_KC, starts, sequence_T)
        return out_TKC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_TKC: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # pyrefly: ignore[bad-override]
        x_TC, weight_KCW, bias_KC, starts, sequence_T = ctx.saved_tensors
        (T, C), W = x_TC.shape, weight_KCW.shape[2]
        channels = min(triton.next_power_of_2(C), CHANNELS)
        parts, across = triton.cdiv(T, POSITIONS), triton.cdiv(C, channels)
        programs = min(parts, max(PROGRAMS // across, 1))
        terms = triton.next_power_of_2(W + 1)
        acc_dtype = torch.promote_types(x_TC.dtype, torch.float32)
        dterms_PKRC = x_TC.new_empty(programs, 2, terms, C, dtype=acc_dtype)
        dlinear_TKC = torch.empty_like(dout_TKC, memory_format=torch.contiguous_format)
        _backward_gate[programs, across](
            x_TC,
            weight_KCW,
            bias_KC,
            starts,
            sequence_T,
            dout_TKC.contiguous(),
            dlinear_TKC,
            dterms_PKRC,
            T,
            x_TC.stride(0),
            C,
            W,
            terms,
            POSITIONS,
            channels,
            num_warps=WARPS,
        )
        dx_TC = x_TC.new_empty(T, C)
        _backward_taps[parts, across](
            dlinear_TKC,
            weight_KCW,
            starts,
            sequence_T,
            dx_TC,
            T,
            C,
            W,
            accumulator(x_TC.dtype),
            POSITIONS,
            channels,
            num_warps=WARPS,
        )
        dterms_KRC = dterms_PKRC.sum(0)
        dweight_KCW = dterms_KRC[:, :W].transpose(1, 2).to(weight_KCW.dtype)
        return dx_TC, dweight_KCW, dterms_KRC[:, W].to(bias_KC.dtype), None, None


@triton.jit
def _borders(starts_ptr, sequence_ptr, position, T):
    """Start and end of the sequence that each position belongs to."""
    sequence = tl.load(sequence_ptr + position, mask=position < T, other=0)
    start = tl.load(starts_ptr + sequence, mask=position < T, other=0)
    stop = tl.load(starts_ptr + sequence + 1, mask=position < T, other=0)
    return start, stop


@triton.jit
def _rows(row_ptr, row, stride, start, stop, column, C: tl.constexpr, DTYPE: tl.constexpr):
    """Load rows; rows outside [start, stop) are zero."""
    inside = ((row >= start) & (row < stop))[:, None] & (column < C)
    return tl.load(row_ptr + row[:, None] * stride + column, mask=inside, other=0.0).to(DTYPE)


@triton.jit
def _tap(
    weight_ptr, channel, K: tl.constexpr, TAP: tl.constexpr, C: tl.constexpr, W: tl.constexpr, DTYPE: tl.constexpr
):
    """Load the weights of one tap in one direction."""
    return tl.load(weight_ptr + (K * C + channel) * W + TAP, mask=channel < C, other=0.0).to(DTYPE)


@triton.jit
def _linear(
    x_ptr,
    weight_ptr,
    bias_ptr,
    position,
    x_stride,
    start,
    stop,
    channel,
    K: tl.constexpr,
    C: tl.constexpr,
    W: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Convolution in one direction at these positions, before SiLU."""
    out = tl.load(bias_ptr + K * C + channel, mask=channel < C, other=0.0).to(DTYPE)[None, :]
    for back in tl.static_range(W):
        row = position + (2 * K - 1) * back
        tap = _tap(weight_ptr, channel, K, W - 1 - back, C, W, DTYPE)
        out = out + tap * _rows(x_ptr, row, x_stride, start, stop, channel, C, DTYPE)
    return out


@triton.jit(do_not_specialize=["T"])
def _forward(
    x_ptr,
    weight_ptr,
    bias_ptr,
    starts_ptr,
    sequence_ptr,
    out_ptr,
    T,
    x_stride,
    C: tl.constexpr,
    W: tl.constexpr,
    DTYPE: tl.constexpr,
    POSITIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    position = tl.program_id(0).to(tl.int64) * POSITIONS + tl.arange(0, POSITIONS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (position < T)[:, None] & (channel < C)
    start, stop = _borders(starts_ptr, sequence_ptr, position, T)
    for k in tl.static_range(2):
        linear = _linear(x_ptr, weight_ptr, bias_ptr, position, x_stride, start, stop, channel, k, C, W, DTYPE)
        tl.store(out_ptr + position[:, None] * (2 * C) + k * C + channel, silu(linear), mask=inside)


@triton.jit(do_not_specialize=["T"])
def _backward_gate(
    x_ptr,
    weight_ptr,
    bias_ptr,
    starts_ptr,
    sequence_ptr,
    dout_ptr,
    dlinear_ptr,
    dterms_ptr,
    T,
    x_stride,
    C: tl.constexpr,
    W: tl.constexpr,
    TERMS: tl.constexpr,
    POSITIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Compute the gradients of the SiLU inputs, and this program's partial gradients of taps and bias."""
    dtype = dterms_ptr.dtype.element_ty
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    term = tl.arange(0, TERMS)[:, None]
    dterms_0 = tl.zeros((TERMS, CHANNELS), dtype)
    dterms_1 = tl.zeros((TERMS, CHANNELS), dtype)
    for first in range(tl.program_id(0) * POSITIONS, T, tl.num_programs(0) * POSITIONS):
        position = first + tl.arange(0, POSITIONS).to(tl.int64)
        offset = position[:, None] * (2 * C) + channel
        inside = (position < T)[:, None] & (channel < C)
        start, stop = _borders(starts_ptr, sequence_ptr, position, T)
        for k in tl.static_range(2):
            linear = _linear(x_ptr, weight_ptr, bias_ptr, position, x_stride, start, stop, channel, k, C, W, dtype)
            dlinear = tl.load(dout_ptr + offset + k * C, mask=inside, other=0.0).to(dtype) * silu_slope(linear)
            tl.store(dlinear_ptr + offset + k * C, dlinear, mask=inside)
            dterm = tl.where(term == W, tl.sum(dlinear, axis=0)[None, :], 0.0)
            for back in tl.static_range(W):
                x = _rows(x_ptr, position + (2 * k - 1) * back, x_stride, start, stop, channel, C, dtype)
                dterm += tl.where(term == W - 1 - back, tl.sum(dlinear * x, axis=0)[None, :], 0.0)
            if k == 0:
                dterms_0 += dterm
            else:
                dterms_1 += dterm
    target = dterms_ptr + (tl.program_id(0) * (2 * TERMS) + term) * C + channel
    tl.store(target, dterms_0, mask=(term < TERMS) & (channel < C))
    tl.store(target + TERMS * C, dterms_1, mask=(term < TERMS) & (channel < C))


@triton.jit(do_not_specialize=["T"])
def _backward_taps(
    dlinear_ptr,
    weight_ptr,
    starts_ptr,
    sequence_ptr,
    dx_ptr,
    T,
    C: tl.constexpr,
    W: tl.constexpr,
    DTYPE: tl.constexpr,
    POSITIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Compute the gradient of x: each position sums tap * gradient over the SiLU inputs that depend on it."""
    position = tl.program_id(0).to(tl.int64) * POSITIONS + tl.arange(0, POSITIONS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    start, stop = _borders(starts_ptr, sequence_ptr, position, T)
    dx = tl.zeros((POSITIONS, CHANNELS), DTYPE)
    for k in tl.static_range(2):
        for back in tl.static_range(W):
            reader = position - (2 * k - 1) * back
            tap = _tap(weight_ptr, channel, k, W - 1 - back, C, W, DTYPE)
            dx += tap * _rows(dlinear_ptr + k * C, reader, 2 * C, start, stop, channel, C, DTYPE)
    tl.store(dx_ptr + position[:, None] * C + channel, dx, mask=(position < T)[:, None] & (channel < C))
