# ruff: noqa: ANN001, ANN202, RUF005 (Triton supports no annotations but tl.constexpr, and no unpacking)
"""Mamba-2's short convolution in one or both directions at once, without reversing the input.

Direction 0 reads the positions before the current one, direction 1 the positions after it. Sequences are zero-padded.

Shapes: T packed positions, C channels, K directions (1 or 2), W taps, P programs, R = W + 1 terms (taps, then
the bias).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldarnet.ops.columns import GradientBuffer, gradient_memory
from ldarnet.ops.kernels.tiles import accumulator, separate_rows, silu, silu_slope
from ldarnet.ops.packing import Packing

CHANNELS, WARPS = 64, 4
"""Channels and warps of a program."""

POSITIONS = 32
"""Positions of a program in the forward pass."""

RUNS, RUN_LENGTH = 8, 32
"""Backward pass: runs of consecutive positions per program, and positions per run."""


def convolution(
    x_TC: Tensor, weight_KCW: Tensor, bias_KC: Tensor, packing: Packing, dx: GradientBuffer | None = None
) -> Tensor:
    """Triton backend of :func:`ldarnet.ops.convolution.convolution`; saves only its arguments for backward.

    Rows of x may be strided, as in a slice of a wider tensor.
    """
    return _TritonConvolution.apply(x_TC, weight_KCW, bias_KC, packing.starts, packing.sequence, dx)


class _TritonConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TC: Tensor,
        weight_KCW: Tensor,
        bias_KC: Tensor,
        starts: Tensor,
        sequence_T: Tensor,
        dx: GradientBuffer | None,
    ) -> Tensor:
        (T, C), K = x_TC.shape, len(bias_KC)
        x_TC, bias_KC = separate_rows(x_TC, 1), bias_KC.contiguous()
        weight_KWC = weight_KCW.transpose(1, 2).contiguous()  # channels are read as vectors
        out_TKC = x_TC.new_empty(T, K, C)
        channels = min(triton.next_power_of_2(C), CHANNELS)
        _forward[triton.cdiv(T, POSITIONS), triton.cdiv(C, channels)](
            x_TC,
            weight_KWC,
            bias_KC,
            starts,
            sequence_T,
            out_TKC,
            T,
            x_TC.stride(0),
            K,
            C,
            weight_KWC.shape[1],
            accumulator(x_TC.dtype),
            POSITIONS,
            channels,
            num_warps=WARPS,
        )
        ctx.dx = dx
        ctx.save_for_backward(x_TC, weight_KWC, bias_KC, sequence_T)
        return out_TKC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_TKC: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        x_TC, weight_KWC, bias_KC, sequence_T = ctx.saved_tensors
        (T, C), (K, W, _) = x_TC.shape, weight_KWC.shape
        channels = min(triton.next_power_of_2(C), CHANNELS)
        programs = triton.cdiv(T, RUNS * RUN_LENGTH)
        dx_TC = gradient_memory(x_TC, ctx.dx)
        acc_dtype = torch.promote_types(x_TC.dtype, torch.float32)
        dterms_PKRC = x_TC.new_empty(programs, K, W + 1, C, dtype=acc_dtype)
        _backward[programs, triton.cdiv(C, channels)](
            x_TC,
            weight_KWC,
            bias_KC,
            sequence_T,
            dout_TKC.contiguous(),
            dx_TC,
            dterms_PKRC,
            T,
            x_TC.stride(0),
            K,
            C,
            W,
            RUNS,
            RUN_LENGTH,
            channels,
            num_warps=WARPS,
        )
        dterms_KRC = dterms_PKRC.sum(0)
        dweight_KCW = dterms_KRC[:, :W].transpose(1, 2).to(weight_KWC.dtype)
        return dx_TC, dweight_KCW, dterms_KRC[:, W].to(bias_KC.dtype), None, None, None


@triton.jit(do_not_specialize=["T"])
def _forward(
    x_ptr,
    weight_ptr,
    bias_ptr,
    starts_ptr,
    sequence_ptr,
    out_ptr,
    T,
    X_STRIDE: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    W: tl.constexpr,
    DTYPE: tl.constexpr,
    POSITIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    position = tl.program_id(0).to(tl.int64) * POSITIONS + tl.arange(0, POSITIONS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    real = channel < C
    sequence = tl.load(sequence_ptr + position, mask=position < T, other=0)
    start = tl.load(starts_ptr + sequence, mask=position < T, other=0)
    stop = tl.load(starts_ptr + sequence + 1, mask=position < T, other=0)
    for k in tl.static_range(K):
        out = tl.load(bias_ptr + k * C + channel, mask=real, other=0.0).to(DTYPE)[None, :]
        for back in tl.static_range(W):
            row = position + (2 * k - 1) * back
            inside = ((row >= start) & (row < stop))[:, None] & real
            x = tl.load(x_ptr + row[:, None] * X_STRIDE + channel, mask=inside, other=0.0).to(DTYPE)
            tap = tl.load(weight_ptr + (k * W + W - 1 - back) * C + channel, mask=real, other=0.0).to(DTYPE)
            out = out + tap * x
        inside = (position < T)[:, None] & real
        tl.store(out_ptr + position[:, None] * (K * C) + k * C + channel, silu(out), mask=inside)


@triton.jit
def _terms(ptr, channel, C: tl.constexpr, TERMS: tl.constexpr, DTYPE: tl.constexpr):
    """Load one vector of channels for each term."""
    terms = ()
    for term in tl.static_range(TERMS):
        terms = terms + (tl.load(ptr + term * C + channel, mask=channel < C, other=0.0).to(DTYPE)[None, :],)
    return terms


@triton.jit
def _zeros(NUMBER: tl.constexpr, RUNS: tl.constexpr, CHANNELS: tl.constexpr, DTYPE: tl.constexpr):
    """Tuple of tiles that are zero."""
    tiles = ()
    for _ in tl.static_range(NUMBER):
        tiles = tiles + (tl.zeros((RUNS, CHANNELS), DTYPE),)
    return tiles


@triton.jit
def _sequence_of(sequence_ptr, position, T):
    """Index of the sequence of each position; -1 outside the packed row."""
    return tl.load(sequence_ptr + position, mask=(position >= 0) & (position < T), other=-1).to(tl.int32)


@triton.jit
def _rows(ptr, position, channel, T, STRIDE: tl.constexpr, C: tl.constexpr, DTYPE: tl.constexpr):
    """Load the rows of these positions; rows outside the packed row are zero."""
    inside = ((position >= 0) & (position < T))[:, None] & (channel < C)
    return tl.load(ptr + position[:, None] * STRIDE + channel, mask=inside, other=0.0).to(DTYPE)


@triton.jit
def _inside(value, sequence, i: tl.constexpr, j: tl.constexpr, BORDERS: tl.constexpr):
    """Zero the tile rows (one per run) for which positions i and j of the run's window are in different sequences."""
    if BORDERS and i != j:
        value = tl.where((sequence[i] == sequence[j])[:, None], value, 0.0)
    return value


@triton.jit
def _window_gradients(
    x,
    sequence,
    weight,
    dlinear,
    own,
    dweight,
    dx,
    REVERSE: tl.constexpr,
    W: tl.constexpr,
    BORDERS: tl.constexpr,
):
    """Add the contributions of one step of the window to the gradients of one direction's taps and of x."""
    at: tl.constexpr = 0 if REVERSE else W - 1
    tap_sums, x_sums = (), ()
    for i in tl.static_range(W):
        tap_sums = tap_sums + (dweight[i] + _inside(own, sequence, i, at, BORDERS) * x[i],)
        x_sums = x_sums + (dx[i] + weight[W - 1 - i if REVERSE else i] * _inside(dlinear, sequence, i, at, BORDERS),)
    return tap_sums, x_sums


@triton.jit
def _slide(
    x_ptr,
    weight_ptr,
    bias_ptr,
    sequence_ptr,
    dout_ptr,
    dx_ptr,
    dterms_ptr,
    T,
    X_STRIDE: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    W: tl.constexpr,
    RUNS: tl.constexpr,
    RUN_LENGTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    BORDERS: tl.constexpr,
):
    """Slide a window over each run of consecutive positions that this program processes.

    BORDERS is 0 if all positions read are in one sequence.
    """
    dtype = dterms_ptr.dtype.element_ty
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    first = (tl.program_id(0).to(tl.int64) * RUNS + tl.arange(0, RUNS)) * RUN_LENGTH
    # With one direction, the variables of direction 1 are unused and take no registers.
    weight_0 = _terms(weight_ptr, channel, C, W, dtype)
    weight_1 = _terms(weight_ptr + (K - 1) * W * C, channel, C, W, dtype)
    bias = _terms(bias_ptr, channel, C, K, dtype)
    dweight_0, dweight_1 = _zeros(W, RUNS, CHANNELS, dtype), _zeros(W, RUNS, CHANNELS, dtype)  # in window order
    dbias_0, dbias_1 = tl.zeros((RUNS, CHANNELS), dtype), tl.zeros((RUNS, CHANNELS), dtype)
    dx = _zeros(W - 1, RUNS, CHANNELS, dtype)
    x, sequence = (), ()
    for back in tl.static_range(W - 1, 0, -1):
        x = x + (_rows(x_ptr, first - back, channel, T, X_STRIDE, C, dtype),)
        if BORDERS:
            sequence = sequence + (_sequence_of(sequence_ptr, first - back, T),)
    for step in tl.range(RUN_LENGTH + W - 1):
        last = first + step
        begin = last - (W - 1)
        x = x + (_rows(x_ptr, last, channel, T, X_STRIDE, C, dtype),)
        if BORDERS:
            sequence = sequence + (_sequence_of(sequence_ptr, last, T),)
        dx = dx + (tl.zeros((RUNS, CHANNELS), dtype),)
        linear_0 = bias[0]
        for i in tl.static_range(W):
            linear_0 += weight_0[i] * _inside(x[i], sequence, i, W - 1, BORDERS)
        dlinear_0 = _rows(dout_ptr, last, channel, T, K * C, C, dtype) * silu_slope(linear_0)
        # Positions beside the run belong to other runs, which add them to the gradients of taps and bias.
        own_0 = tl.where(step < RUN_LENGTH, dlinear_0, 0.0)
        dbias_0 += own_0
        dweight_0, dx = _window_gradients(x, sequence, weight_0, dlinear_0, own_0, dweight_0, dx, 0, W, BORDERS)
        if K == 2:
            linear_1 = bias[1]
            for i in tl.static_range(W):
                linear_1 += weight_1[W - 1 - i] * _inside(x[i], sequence, i, 0, BORDERS)
            dlinear_1 = _rows(dout_ptr + C, begin, channel, T, K * C, C, dtype) * silu_slope(linear_1)
            own_1 = tl.where(step >= W - 1, dlinear_1, 0.0)
            dbias_1 += own_1
            dweight_1, dx = _window_gradients(x, sequence, weight_1, dlinear_1, own_1, dweight_1, dx, 1, W, BORDERS)
        inside = ((step >= W - 1) & (begin < T))[:, None] & (channel < C)
        tl.store(dx_ptr + begin[:, None] * X_STRIDE + channel, dx[0], mask=inside)
        x, sequence, dx = x[1:], sequence[1:], dx[1:]
    target = dterms_ptr + tl.program_id(0).to(tl.int64) * (K * (W + 1) * C) + channel
    for i in tl.static_range(W):
        tl.store(target + i * C, tl.sum(dweight_0[i], axis=0), mask=channel < C)
        if K == 2:
            tl.store(target + (W + 1 + i) * C, tl.sum(dweight_1[W - 1 - i], axis=0), mask=channel < C)
    tl.store(target + W * C, tl.sum(dbias_0, axis=0), mask=channel < C)
    if K == 2:
        tl.store(target + (2 * W + 1) * C, tl.sum(dbias_1, axis=0), mask=channel < C)


@triton.jit(do_not_specialize=["T"])
def _backward(
    x_ptr,
    weight_ptr,
    bias_ptr,
    sequence_ptr,
    dout_ptr,
    dx_ptr,
    dterms_ptr,
    T,
    X_STRIDE: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    W: tl.constexpr,
    RUNS: tl.constexpr,
    RUN_LENGTH: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Compute the gradient of x, and this program's partial gradients of taps and bias.

    A program processes RUNS runs of RUN_LENGTH consecutive positions. A window of W positions slides over each run. At
    each step, direction 0 is evaluated at the last position of the window and direction 1 at the first, so that both
    read exactly the positions in the window. The gradient of the first position is then complete and is stored.
    """
    begin = tl.program_id(0).to(tl.int64) * (RUNS * RUN_LENGTH)
    end = begin + (RUNS * RUN_LENGTH + W - 2)
    first_sequence = tl.load(sequence_ptr + tl.maximum(begin - (W - 1), 0))
    last_sequence = tl.load(sequence_ptr + tl.minimum(end, T - 1))
    for borders in tl.static_range(2):
        if (first_sequence != last_sequence) == borders:
            _slide(
                x_ptr,
                weight_ptr,
                bias_ptr,
                sequence_ptr,
                dout_ptr,
                dx_ptr,
                dterms_ptr,
                T,
                X_STRIDE,
                K,
                C,
                W,
                RUNS,
                RUN_LENGTH,
                CHANNELS,
                borders,
            )
