"""Mamba-2's gated RMSNorm, averaged over both directions.

Shapes: T packed positions, K = 2 directions, E inner width.
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
            total = torch.zeros_like(gate)
            for k, scaled_E in enumerate(scaled_KE):
                normed, _ = _normed(at_least_fp32(y_TKE[rows, k]), gate)
                total.addcmul_(normed, scaled_E)
            out_TE[rows] = total
        return out_TE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_TE: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        y_TKE, z_TE, weight_KE = ctx.saved_tensors
        scaled_KE = at_least_fp32(weight_KE) / len(weight_KE)
        dy_TKE, dz_TE = y_TKE.new_empty(y_TKE.shape), gradient_memory(z_TE, ctx.dz)
        d_scaled_KE = torch.zeros_like(scaled_KE)
        for rows in slabs(z_TE.device, *z_TE.shape):
            z, d_out = at_least_fp32(z_TE[rows]), at_least_fp32(d_out_TE[rows])
            gate = F.silu(z)
            d_gate = torch.zeros_like(z)
            for k, scaled_E in enumerate(scaled_KE):
                y = at_least_fp32(y_TKE[rows, k])
                normed, scale = _normed(y, gate)
                d_scaled_KE[k] += (d_out * normed).sum(0)
                d_normed = d_out * scaled_E
                mean_dot = (d_normed * normed).mean(-1, keepdim=True)
                d_gated = d_normed.addcmul_(normed, mean_dot, value=-1).mul_(scale)
                d_gate.addcmul_(d_gated, y)
                torch.mul(d_gated, gate, out=dy_TKE[rows, k])
            dz_TE[rows] = torch.ops.aten.silu_backward(d_gate, z)
        return dy_TKE, dz_TE, (d_scaled_KE / len(weight_KE)).to(weight_KE.dtype), None


def _normed(y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """Return y * gate divided by its root mean square, and the reciprocal of that root mean square."""
    gated = y * gate
    scale = (torch.linalg.vector_norm(gated, dim=-1, keepdim=True).square_() / gated.shape[-1] + EPSILON).rsqrt_()
    return gated.mul_(scale), scale
