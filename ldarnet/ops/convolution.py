"""Mamba-2's short depthwise causal convolution, in one or both directions at once.

Shapes: T packed positions, C channels, K directions (0 left to right, 1 right to left), W taps, S sequence
boundaries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ldarnet.ops.columns import GradientBuffer, gradient_memory
from ldarnet.ops.packing import Packing
from ldarnet.ops.precision import at_least_fp32
from ldarnet.ops.registry import REFERENCE, register
from ldarnet.ops.slabs import slabs


@register("convolution", REFERENCE)
def convolution(
    x_TC: Tensor, weight_KCW: Tensor, bias_KC: Tensor, packing: Packing, dx: GradientBuffer | None = None
) -> Tensor:
    """SiLU of a causal depthwise convolution, computed separately for each direction.

    Tap W-1 is the weight of the current position, and tap 0 the weight of the position W-1 steps earlier in the order
    of the direction. Each sequence is zero-padded, so that sequences do not affect one another.

    Args:
        x_TC: inputs.
        weight_KCW: taps.
        bias_KC: biases.
        packing: sequence boundaries.
        dx: memory for the gradient of x; allocated if None.

    Returns:
        Outputs, (T, K, C), in the dtype of x. The computation is in at least float32.
    """
    return _ConvolutionFunction.apply(x_TC, weight_KCW, bias_KC, packing, dx)


class _ConvolutionFunction(torch.autograd.Function):
    """Autograd function; the backward pass recomputes the SiLU input from the arguments, slab by slab."""

    @staticmethod
    def forward(
        ctx: Any, x_TC: Tensor, weight_KCW: Tensor, bias_KC: Tensor, packing: Packing, dx: GradientBuffer | None
    ) -> Tensor:
        ctx.dx = dx
        ctx.save_for_backward(x_TC, weight_KCW, bias_KC)
        ctx.packing = packing
        weight_WKC, bias_KC = _upcast(weight_KCW, bias_KC)
        y_TKC = x_TC.new_empty(len(x_TC), *bias_KC.shape)
        for rows in slabs(x_TC.device, *x_TC.shape):
            _silu(_SlabWithHalo(x_TC, packing, rows, weight_WKC).convolve(bias_KC), out=y_TKC[rows])
        return y_TKC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TKC: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_TC, weight_KCW, bias_KC = ctx.saved_tensors
        weight_WKC, bias = _upcast(weight_KCW, bias_KC)
        d_weight_WKC, d_bias_KC = torch.zeros_like(weight_WKC), torch.zeros_like(bias)
        dx_TC = gradient_memory(x_TC, ctx.dx)
        exact_TC = dx_TC.zero_() if dx_TC.dtype == bias.dtype else bias.new_zeros(x_TC.shape)
        for rows in slabs(x_TC.device, *x_TC.shape):
            slab = _SlabWithHalo(x_TC, ctx.packing, rows, weight_WKC)
            before_silu = slab.convolve(bias)
            torch.ops.aten.silu_backward.grad_input(at_least_fp32(dy_TKC[rows]), before_silu, grad_input=before_silu)
            d_bias_KC += before_silu.sum(0)
            slab.add_gradients(exact_TC, d_weight_WKC)
        if exact_TC is not dx_TC:
            dx_TC.copy_(exact_TC)
        return dx_TC, d_weight_WKC.permute(1, 2, 0).to(weight_KCW.dtype), d_bias_KC.to(bias_KC.dtype), None, None


def _upcast(weight_KCW: Tensor, bias_KC: Tensor) -> tuple[Tensor, Tensor]:
    """Transpose the weights to (W, K, C), and cast weights and bias to at least float32."""
    return at_least_fp32(weight_KCW.permute(2, 0, 1)).contiguous(), at_least_fp32(bias_KC)


def _silu(x: Tensor, out: Tensor) -> None:
    if out.dtype == x.dtype:
        torch.ops.aten.silu.out(x, out=out)
    else:
        out.copy_(F.silu(x, inplace=True))


class _SlabWithHalo:
    """R positions of a row, with W - 1 inputs on each side, which are zero beyond the ends of the row.

    A tap at distance d does not contribute to the first d outputs of a sequence, in the order of the direction. If a
    tap does not contribute to an output, neither do the taps at larger distances. Therefore, taps are visited from the
    largest distance to the smallest, as if there were only one sequence, and after each distance, the outputs that it
    must not contribute to are set back to the bias. This is faster than a mask per tap.

    Attributes:
        x: (R + 2 (W - 1), C), inputs.
        padded: (R + 2, K, C), outputs between two unused rows; gradients of the outputs in the backward pass.
        crossing: (W - 1, S, K), rows of ``padded``. The first d are those that taps at distance d do not contribute to.
            None if there are no boundaries.
    """

    def __init__(self, x_TC: Tensor, packing: Packing, rows: slice, weight_WKC: Tensor) -> None:
        self.rows, self.weight_WKC, self.halo = rows, weight_WKC, len(weight_WKC) - 1
        first, last = max(rows.start - self.halo, 0), min(rows.stop + self.halo, len(x_TC))
        padding = first - rows.start + self.halo, rows.stop + self.halo - last
        self.x = F.pad(at_least_fp32(x_TC[first:last]), (0, 0, *padding))
        self.padded = self.x.new_empty(rows.stop - rows.start + 2, *weight_WKC.shape[1:])
        starts = packing.starts_between(first, last)
        self.directions = torch.arange(weight_WKC.shape[1], device=x_TC.device)
        self.crossing = self._crossing(starts - rows.start) if len(starts) else None

    def _crossing(self, start_S: Tensor) -> Tensor:
        beyond_W = torch.arange(self.halo, device=start_S.device)[:, None]
        rows_WSK = torch.stack([start_S + beyond_W, start_S - 1 - beyond_W][: self.padded.shape[1]], -1) + 1
        return rows_WSK.clamp_(0, len(self.padded) - 1)

    def _set_crossing(self, distance: int, value: Tensor | float) -> None:
        """Set the rows of ``padded`` that taps at this distance do not contribute to."""
        if self.crossing is not None and distance:
            self.padded[self.crossing[:distance], self.directions] = value

    def inputs(self, distance: int) -> Tensor:
        """Inputs of the taps at this distance, (R, K, C); the directions overlap in memory."""
        C = self.x.shape[1]
        shape = len(self.padded) - 2, self.padded.shape[1], C
        return self.x.as_strided(shape, (C, 2 * distance * C, 1), (self.halo - distance) * C)

    def convolve(self, bias_KC: Tensor) -> Tensor:
        """Output of the convolution, (R, K, C), before SiLU."""
        y = self.padded[1:-1]
        torch.addcmul(bias_KC, self.inputs(self.halo), self.weight_WKC[0], out=y)
        for distance in range(self.halo, 0, -1):
            self._set_crossing(distance, bias_KC)
            y.addcmul_(self.inputs(distance - 1), self.weight_WKC[self.halo - distance + 1])
        return y

    def add_gradients(self, dx_TC: Tensor, d_weight_WKC: Tensor) -> None:
        """Add the gradients of inputs and weights; the result of `convolve` has been replaced by its gradient."""
        dy, (first, last) = self.padded[1:-1], (self.rows.start, self.rows.stop)
        product = torch.empty_like(dy)
        for distance in range(self.halo + 1):
            tap = self.halo - distance
            self._set_crossing(distance, 0.0)
            d_weight_WKC[tap] += torch.mul(dy, self.inputs(distance), out=product).sum(0)
            for k, shift in enumerate((-distance, distance)[: dy.shape[1]]):
                source = slice(max(first + shift, 0), min(last + shift, len(dx_TC)))
                target = slice(source.start - shift - first, source.stop - shift - first)
                if source.start < source.stop:
                    dx_TC[source].addcmul_(dy[target, k], self.weight_WKC[tap, k])
