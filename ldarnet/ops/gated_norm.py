"""Mamba-2's gated RMSNorm, averaged over the directions.

Shapes: T packed positions, K directions (1 or 2), E inner width. A row is processed in slabs of R positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ldarnet.ops.columns import GradientBuffer, gradient_memory
from ldarnet.ops.norm import EPSILON
from ldarnet.ops.precision import at_least_fp32
from ldarnet.ops.registry import REFERENCE, register
from ldarnet.ops.slabs import slabs


@register("gated_norm", REFERENCE)
def gated_norm(y_TKE: Tensor, z_TE: Tensor, weight_KE: Tensor, dz: GradientBuffer | None = None) -> Tensor:
    """Mean over directions of rms_norm(y * silu(z)) * weight; the gate is applied before the norm.

    Args:
        y_TKE: values to normalize.
        z_TE: gates.
        weight_KE: weights of the norm.
        dz: memory for the gradient of z; allocated if None.

    Returns:
        Outputs, (T, E), in the dtype of y. The computation is in at least float32.
    """
    return _GatedNormFunction.apply(y_TKE, z_TE, weight_KE, dz)


class _GatedNormFunction(torch.autograd.Function):
    """Autograd function; the backward pass recomputes all intermediates from the arguments, slab by slab."""

    @staticmethod
    def forward(ctx: Any, y_TKE: Tensor, z_TE: Tensor, weight_KE: Tensor, dz: GradientBuffer | None) -> Tensor:
        ctx.dz = dz
        ctx.save_for_backward(y_TKE, z_TE, weight_KE)
        scaled_KE = at_least_fp32(weight_KE) / len(weight_KE)
        out_TE = y_TKE.new_empty(z_TE.shape)
        for rows in slabs(z_TE.device, *z_TE.shape):
            gate = F.silu(at_least_fp32(z_TE[rows]))
            normed, _ = _normed(at_least_fp32(y_TKE[rows]), gate)
            out_TE[rows] = normed.mul_(scaled_KE).sum(1)
        return out_TE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_TE: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        y_TKE, z_TE, weight_KE = ctx.saved_tensors
        scaled_KE = at_least_fp32(weight_KE) / len(weight_KE)
        dy_TKE, dz_TE = y_TKE.new_empty(y_TKE.shape), gradient_memory(z_TE, ctx.dz)
        d_scaled_KE = torch.zeros_like(scaled_KE)
        for rows in slabs(z_TE.device, *z_TE.shape):
            z, d_out, y = (at_least_fp32(value[rows]) for value in (z_TE, d_out_TE, y_TKE))
            gate = F.silu(z)
            normed, scale = _normed(y, gate)
            product = normed * d_out[:, None]
            d_scaled_KE += product.sum(0)
            mean_dot = product.mul_(scaled_KE).mean(-1, keepdim=True)
            d_normed = torch.mul(d_out[:, None], scaled_KE, out=product)
            d_gated = d_normed.addcmul_(normed, mean_dot, value=-1).mul_(scale)
            d_gate = torch.mul(d_gated, y, out=normed).sum(1)
            torch.mul(d_gated, gate[:, None], out=dy_TKE[rows])
            dz_TE[rows] = torch.ops.aten.silu_backward(d_gate, z)
        return dy_TKE, dz_TE, (d_scaled_KE / len(weight_KE)).to(weight_KE.dtype), None


def _normed(y_RKE: Tensor, gate_RE: Tensor) -> tuple[Tensor, Tensor]:
    """Return y * gate divided by its root mean square, and the reciprocal of that root mean square."""
    gated = y_RKE * gate_RE[:, None]
    scale = (torch.linalg.vector_norm(gated, dim=-1, keepdim=True).square_() / gated.shape[-1] + EPSILON).rsqrt_()
    return gated.mul_(scale), scale
