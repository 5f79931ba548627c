"""How a linear layer's weight starts, where it is not drawn from the usual normal distribution."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import initialization as init

INITIAL_STD = 0.02


def start_weight(linear: nn.Linear, fill: Callable[..., Tensor], **settings: Any) -> nn.Linear:
    """Let a layer's weight start as ``fill(weight, **settings)``; ``fill`` is from transformers' initialization."""
    linear.fill_weight = partial(fill, **settings)
    return linear


def initialize_linear(linear: nn.Linear) -> None:
    """Fill the weight as asked for, or from N(0, 0.02), and the bias with zeros."""
    fill = getattr(linear, "fill_weight", None) or partial(init.normal_, std=INITIAL_STD)
    fill(linear.weight)
    if linear.bias is not None:
        init.zeros_(linear.bias)
