"""Residual addition and RMSNorm, computed in at least float32.

Shapes: T packed positions, D width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ldarnet.ops.registry import REFERENCE, register
from ldarnet.ops.slabs import slabs

EPSILON = 1e-5


@register("add_norm", REFERENCE)
def add_norm(
    branch_TD: Tensor | None, residual_TD: Tensor, weight_D: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Add a branch to the residual stream and normalize the sum.

    Args:
        branch_TD: output of the previous mixer or MLP; None before the first layer.
        residual_TD: residual stream, at least float32.
        weight_D: weight of the norm.
        dtype: dtype of the normalized output.

    Returns:
        The normalized sum in ``dtype`` and the sum in the dtype of the residual stream, both (T, D).
    """
    return _AddNormFunction.apply(branch_TD, residual_TD, weight_D, dtype)


class _AddNormFunction(torch.autograd.Function):
    """Autograd function that saves only the weight and the sum, one of its outputs, for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, branch_TD: Tensor | None, residual_TD: Tensor, weight_D: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        sum_TD = residual_TD if branch_TD is None else residual_TD + branch_TD
        normed_TD = F.rms_norm(sum_TD, weight_D.shape, weight_D.to(sum_TD.dtype), EPSILON)
        ctx.save_for_backward(sum_TD, weight_D)
        ctx.branch_dtype = None if branch_TD is None else branch_TD.dtype
        return normed_TD.to(dtype), sum_TD

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, d_normed_TD: Tensor, d_sum_TD: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor, None]:
        sum_TD, weight_D = ctx.saved_tensors
        weight = weight_D.to(sum_TD.dtype)
        d_TD, d_weight = torch.empty_like(sum_TD), torch.zeros_like(weight)
        for rows in slabs(sum_TD.device, *sum_TD.shape):
            x, d_normed = sum_TD[rows], d_normed_TD[rows].to(sum_TD.dtype)
            scale = x.square().mean(-1, keepdim=True).add_(EPSILON).rsqrt_()
            x = x * scale
            d_weight += (d_normed * x).sum(0)
            weighted = d_normed * weight
            mean_dot = (weighted * x).mean(-1, keepdim=True)
            torch.addcmul(d_sum_TD[rows], weighted.addcmul_(x, mean_dot, value=-1), scale, out=d_TD[rows])
        d_branch = None if ctx.branch_dtype is None else d_TD.to(ctx.branch_dtype)
        return d_branch, d_TD, d_weight.to(weight_D.dtype), None
