"""The gate of SwiGLU (Shazeer 2020, arXiv 2002.05202).

Shapes: T packed positions, F = 2 * hidden width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ldarnet.ops.precision import at_least_fp32
from ldarnet.ops.registry import REFERENCE, register


@register("swiglu", REFERENCE)
def swiglu(x_TF: Tensor) -> Tensor:
    """Compute silu(gate) * y for x = [y, gate].

    Returns:
        Outputs, (T, F/2), in the dtype of x. The computation is in at least float32.
    """
    return _SwiGLUFunction.apply(x_TF)


class _SwiGLUFunction(torch.autograd.Function):
    """Autograd function that saves only its input for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x_TF: Tensor) -> Tensor:
        ctx.save_for_backward(x_TF)
        y, gate = at_least_fp32(x_TF).chunk(2, dim=-1)
        return (functional.silu(gate) * y).to(x_TF.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> Tensor:  # type: ignore[override]
        (x_TF,) = ctx.saved_tensors
        y, gate = at_least_fp32(x_TF).chunk(2, dim=-1)
        d = at_least_fp32(d_out)
        dy, d_gate = d * functional.silu(gate), torch.ops.aten.silu_backward(d * y, gate)
        return torch.cat([dy, d_gate], dim=-1).to(x_TF.dtype)
