"""Mamba-2's short depthwise causal convolution, in both directions at once.

Shapes: T packed positions, C channels, K = 2 directions (0 left to right, 1 right to left), W taps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
        weight_KWC, bias_KC = _upcast(weight_KCW, bias_KC)
        y_TKC = x_TC.new_empty(len(x_TC), *bias_KC.shape)
        for rows in slabs(x_TC.device, *x_TC.shape):
            window = _SlabWithHalo(x_TC, packing, rows, weight_KWC.shape[1] - 1)
            for k, (weight_WC, bias_C) in enumerate(zip(weight_KWC, bias_KC, strict=True)):
                before_silu = window.convolve(weight_WC, bias_C, k)
                torch.mul(before_silu, before_silu.sigmoid(), out=y_TKC[rows, k])
        return y_TKC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TKC: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_TC, weight_KCW, bias_KC = ctx.saved_tensors
        weight_KWC, bias = _upcast(weight_KCW, bias_KC)
        d_weight_KWC, d_bias_KC = torch.zeros_like(weight_KWC), torch.zeros_like(bias)
        dx_TC = gradient_memory(x_TC, ctx.dx)
        exact_TC = dx_TC.zero_() if dx_TC.dtype == bias.dtype else bias.new_zeros(x_TC.shape)
        for rows in slabs(x_TC.device, *x_TC.shape):
            window = _SlabWithHalo(x_TC, ctx.packing, rows, weight_KWC.shape[1] - 1)
            dx = exact_TC[window.near]
            for k, weight_WC in enumerate(weight_KWC):
                before_silu = window.convolve(weight_WC, bias[k], k)
                d_before = torch.ops.aten.silu_backward(at_least_fp32(dy_TKC[rows, k]), before_silu)
                d_bias_KC[k] += d_before.sum(0)
                for tap, target, source, same in window.taps(k):
                    d_tap = d_before[target] if same is None else d_before[target] * same
                    dx[source].addcmul_(d_tap, weight_WC[tap])
                    d_weight_KWC[k, tap] += (d_tap * window.x[source]).sum(0)
        d_weight_KCW = d_weight_KWC.transpose(1, 2)
        if exact_TC is not dx_TC:
            dx_TC.copy_(exact_TC)
        return dx_TC, d_weight_KCW.to(weight_KCW.dtype), d_bias_KC.to(bias_KC.dtype), None, None


def _upcast(weight_KCW: Tensor, bias_KC: Tensor) -> tuple[Tensor, Tensor]:
    """Transpose the weights to (K, W, C), and cast weights and bias to at least float32."""
    return at_least_fp32(weight_KCW.transpose(1, 2)).contiguous(), at_least_fp32(bias_KC)


class _SlabWithHalo:
    """A slab of positions with a halo of up to ``margin`` positions on each side.

    ``near`` is the slice of the row that contains the slab and its halo.
    """

    def __init__(self, x_TC: Tensor, packing: Packing, rows: slice, margin: int) -> None:
        self.near = slice(max(rows.start - margin, 0), min(rows.stop + margin, len(x_TC)))
        self.first, self.last = rows.start - self.near.start, rows.stop - self.near.start
        self.margin = margin
        self.x = at_least_fp32(x_TC[self.near])
        self.sequence = packing.sequence[self.near]
        self.single_sequence = x_TC.device.type == "cpu" and bool(self.sequence[0] == self.sequence[-1])

    def taps(self, k: int) -> Iterator[tuple[int, slice, slice, Tensor | None]]:
        """Yield (tap, output slice, input slice, mask) for each tap of direction ``k``.

        Output slices index the slab, input slices index the slab with its halo. The mask, (positions, 1), is True where
        output and input belong to the same sequence. The mask is None if it is known to be True everywhere.
        """
        for distance in range(self.margin + 1):
            shift = distance if k else -distance
            first, last = max(self.first, -shift), min(self.last, len(self.x) - shift)
            target, source = slice(first - self.first, last - self.first), slice(first + shift, last + shift)
            if first < last:
                inside = self.single_sequence or distance == 0
                same = None if inside else (self.sequence[first:last] == self.sequence[source])[:, None]
                yield self.margin - distance, target, source, same

    def convolve(self, weight_WC: Tensor, bias_C: Tensor, k: int) -> Tensor:
        """Output of the convolution for the slab, before SiLU."""
        y = bias_C.expand(self.last - self.first, -1)
        for tap, target, source, same in self.taps(k):
            x = self.x[source] if same is None else self.x[source] * same
            if tap == self.margin:
                y = torch.addcmul(y, x, weight_WC[tap])
            else:
                y[target].addcmul_(x, weight_WC[tap])
        return y
