"""Weight initialization of linear layers, and a linear layer that computes in at least float32."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import initialization as init

from ldarnet.ops import at_least_fp32, full_precision, tf32

INITIAL_STD = 0.02

Linear = TypeVar("Linear", bound=nn.Linear)


class Fp32Linear(nn.Linear):
    """Linear layer computed in at least float32, regardless of autocast and the dtype of its weights.

    Under autocast on a GPU, gradients are computed in TF32: their relative error, 2^-11 per factor, is below the 2^-9
    of the bf16 products around them.

    Attributes:
        tf32_output: whether the output, too, is computed in TF32 under autocast on a GPU. Only for layers that do not
            affect boundary probabilities: there, an error moves the boundaries whose probability is close to 0.5.
    """

    tf32_output = False

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to the last dimension of ``input``."""
        mixed = input.is_cuda and torch.is_autocast_enabled("cuda")
        with full_precision(input.device):
            x, weight = at_least_fp32(input), at_least_fp32(self.weight)
            bias = None if self.bias is None else at_least_fp32(self.bias)
            return _Tf32Linear.apply(x, weight, bias, self.tf32_output) if mixed else F.linear(x, weight, bias)


class _Tf32Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, tf32_output: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        with tf32(tf32_output):
            return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        x, weight = ctx.saved_tensors
        x_needed, weight_needed, bias_needed, _ = ctx.needs_input_grad
        rows = dout.flatten(0, -2)
        with tf32():
            dx = dout @ weight if x_needed else None
            dweight = rows.T @ x.flatten(0, -2) if weight_needed else None
        return dx, dweight, rows.sum(0) if bias_needed else None, None


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
