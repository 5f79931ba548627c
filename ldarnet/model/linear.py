"""Linear layers in the autocast dtype or in at least float32, and the initialization of their weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import initialization as init

from ldarnet.ops import at_least_fp32, full_precision, tf32

INITIAL_STD = 0.02
TF32_DROPPED_BITS = 2**13 - 1
"""Bits of a float32 number that TF32 does not have."""

Linear = TypeVar("Linear", bound=nn.Linear)


class AutocastLinear(nn.Linear):
    """Linear layer that runs in the autocast dtype under autocast.

    On an NVIDIA GPU, the product that computes the gradient of a float32 weight writes float32. Autograd would compute
    this gradient in the autocast dtype and cast it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to the last dimension of ``input``."""
        if not self._writes_fp32_gradient(input):
            return super().forward(input)
        dtype = torch.get_autocast_dtype("cuda")
        with full_precision(input.device):
            return _HalfLinear.apply(input.to(dtype), self.weight, self.bias)

    def _writes_fp32_gradient(self, input: Tensor) -> bool:
        mixed = input.is_cuda and torch.version.hip is None and torch.is_autocast_enabled("cuda")
        trains = torch.is_grad_enabled() and self.weight.requires_grad and self.weight.dtype == torch.float32
        # ZeRO stage 3 frees the weights between forward and backward; a saved copy would defeat that.
        return mixed and trains and not hasattr(self.weight, "ds_id")


class _HalfLinear(torch.autograd.Function):
    """Product of a 2-byte input and a float32 weight that is cast to the same dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        half = weight.to(x.dtype)
        ctx.save_for_backward(x, half)
        return F.linear(x, half, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        x, half = ctx.saved_tensors
        x_needed, weight_needed, bias_needed = ctx.needs_input_grad
        rows = dout.flatten(0, -2)
        dweight = product_in_fp32(rows.T, x.flatten(0, -2)) if weight_needed else None
        dbias = rows.sum(0, dtype=torch.float32) if bias_needed else None
        return dout @ half if x_needed else None, dweight, dbias


def product_in_fp32(left: Tensor, right: Tensor) -> Tensor:
    """Product of two 2-byte matrices, accumulated and returned in float32."""
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()  # no such product on other devices


class Fp32Linear(nn.Linear):
    """Linear layer computed in at least float32, regardless of autocast and the dtype of its weights.

    Under autocast on a GPU, gradients are computed in TF32: their relative error, 2^-11 per factor, is below the 2^-9
    of the bf16 products around them.

    Attributes:
        gpu_output: how the output is computed under autocast on a GPU. ``float32``: without tensor cores. ``tf32``: in
            TF32; only for layers that do not affect boundary probabilities, where an error moves the boundaries whose
            probability is close to 0.5. ``tf32x3``: as three products in TF32 (:class:`Tf32Terms`), with the error of
            a float32 product.
    """

    gpu_output: Literal["float32", "tf32", "tf32x3"] = "float32"

    def forward(self, input: Tensor, terms: Tf32Terms | None = None) -> Tensor:
        """Apply the layer to the last dimension of ``input``.

        Args:
            input: input of any floating-point dtype.
            terms: the input as a sum of two terms, if another layer with ``tf32x3`` needs them, too.
        """
        mixed = uses_tf32(input)
        with full_precision(input.device):
            x, weight = at_least_fp32(input), at_least_fp32(self.weight)
            bias = None if self.bias is None else at_least_fp32(self.bias)
            if not mixed:
                return F.linear(x, weight, bias)
            return _Tf32Linear.apply(x, weight, bias, self.gpu_output, terms)


def uses_tf32(x: Tensor) -> bool:
    """Whether layers in float32 may use TF32 for this input: under autocast on a GPU."""
    return x.is_cuda and torch.is_autocast_enabled("cuda")


class Tf32Terms(NamedTuple):
    """A float32 matrix as the sum of two terms: ``high`` is exact in TF32, and ``low`` is at most 2^-10 of the matrix.

    The product of two matrices in three products of terms leaves out low x low, and rounds each low term to TF32. The
    error is at most 2^-19 of |x| |y|. The bound for a float32 product of n terms is n 2^-24, which is larger for more
    than 32 terms.
    """

    high: Tensor
    low: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Tf32Terms:
        """Split a float32 matrix."""
        high = (x.detach().contiguous().view(torch.int32) & ~TF32_DROPPED_BITS).view(torch.float32)
        return cls(high, x.detach() - high)

    def linear(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply rows by a weight, (out, in), in three products in TF32; the smallest are added first."""
        high, low = (term.T for term in Tf32Terms.of(weight))
        with tf32():
            out = torch.mm(self.low, high) if bias is None else torch.addmm(bias, self.low, high)
            return torch.addmm(torch.addmm(out, self.high, low), self.high, high)


class _Tf32Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, output: str, terms: Tf32Terms | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        if output == "tf32x3" and x.dtype == torch.float32:
            rows = terms or Tf32Terms.of(x.flatten(0, -2))
            return rows.linear(weight, bias).unflatten(0, x.shape[:-1])
        with tf32(output == "tf32"):
            return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        x, weight = ctx.saved_tensors
        x_needed, weight_needed, bias_needed, *_ = ctx.needs_input_grad
        rows = dout.flatten(0, -2)
        with tf32():
            dx = dout @ weight if x_needed else None
            dweight = rows.T @ x.flatten(0, -2) if weight_needed else None
        return dx, dweight, rows.sum(0) if bias_needed else None, None, None


def init_weight(linear: Linear, fill: Callable[..., Tensor], **settings: Any) -> Linear:
    """Set the weight initializer of a layer to ``fill(weight, **settings)``, and return the layer.

    ``fill`` is a function of ``transformers.initialization``.
    """
    linear.__dict__["init_fn"] = partial(fill, **settings)
    return linear


def initialize_linear(linear: nn.Linear) -> None:
    """Initialize the bias to zero, and the weight as set by :func:`init_weight` (default: normal with std 0.02)."""
    fill = getattr(linear, "init_fn", None) or partial(init.normal_, std=INITIAL_STD)
    fill(linear.weight)
    if linear.bias is not None:
        init.zeros_(linear.bias)
