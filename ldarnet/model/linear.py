"""Linear layers: how their weights start, and one that computes in at least float32."""

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
    """A linear layer computed in at least float32, under any autocast and whatever its weights are stored in."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to the last dimension."""
        with full_precision(input.device):
            bias = None if self.bias is None else at_least_fp32(self.bias)
            return F.linear(at_least_fp32(input), at_least_fp32(self.weight), bias)


def init_weight(linear: Linear, fill: Callable[..., Tensor], **settings: Any) -> Linear:
    """Let a layer's weight start as ``fill(weight, **settings)``; ``fill`` is from transformers' initialization."""
    linear.__dict__["init_fn"] = partial(fill, **settings)
    return linear


def initialize_linear(linear: nn.Linear) -> None:
    """Fill the weight as asked for, or from N(0, 0.02), and the bias with zeros."""
    fill = getattr(linear, "init_fn", None) or partial(init.normal_, std=INITIAL_STD)
    fill(linear.weight)
    if linear.bias is not None:
        init.zeros_(linear.bias)
