"""Weight initialization of linear layers, and a linear layer that computes in at least float32."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from ldarnet.ops import at_least_fp32, full_precision

INITIAL_STD = 0.02

Linear = TypeVar("Linear", bound=nn.Linear)


class Fp32Linear(nn.Linear):
    """Linear layer computed in at least float32, regardless of autocast and the dtype of its weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to the last dimension of ``input``."""
        with full_precision(input.device):
            bias = None if self.bias is None else at_least_fp32(self.bias)
            return F.linear(at_least_fp32(input), at_least_fp32(self.weight), bias)


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
