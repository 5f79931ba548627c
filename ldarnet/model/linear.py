"""Linear layers: weight initialization, and a layer that computes in at least float32."""

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
    """Linear layer computed in at least float32, regardless of autocast and of the dtype of its weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to the last dimension."""
        with full_precision(input.device):
            bias = None if self.bias is None else at_least_fp32(self.bias)
            return F.linear(at_least_fp32(input), at_least_fp32(self.weight), bias)


def init_weight(linear: Linear, fill: Callable[..., Tensor], **settings: Any) -> Linear:
    """Set how a layer's weight is initialized: ``fill(weight, **settings)``, from ``transformers.initialization``."""
    linear.__dict__["init_fn"] = partial(fill, **settings)
    return linear


def initialize_linear(linear: nn.Linear) -> None:
    """Initialize the weight as set by :func:`init_weight`, by default from N(0, 0.02), and the bias to zero."""
    fill = getattr(linear, "init_fn", None) or partial(init.normal_, std=INITIAL_STD)
    fill(linear.weight)
    if linear.bias is not None:
        init.zeros_(linear.bias)
