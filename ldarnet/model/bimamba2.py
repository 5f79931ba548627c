"""BiMamba-2: a bidirectional Mamba-2 mixer whose two directions share their projections. Causal models have one.

Because the projections are linear and shared, ``in_proj`` runs once on x and ``out_proj`` once on the mean of the
two directions.

Shapes: T packed positions, D width, K directions (2, or 1 if causal), E = expand * D inner width, H heads, P head
dimension, N state width, W convolution taps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.kernel_options import kernel_options
from ldarnet.model.linear import AutocastLinear
from ldarnet.ops import Packing, ScanGradients, kernel_for, split_columns

MIN_DT, MAX_DT, DT_FLOOR = 1e-3, 1e-1, 1e-4
MAX_A = 16.0


class BiMamba2(nn.Module):
    """Mamba-2 mixer (arXiv 2405.21060) in both directions, or left to right if causal; maps (T, D) to (T, D)."""

    def __init__(self, config: LDARNetConfig, stage: int) -> None:
        """Build the mixer for a stage; stage 0 is the outermost."""
        super().__init__()
        ssm, width, K = config.ssm_cfg, config.d_model[stage], config.directions
        self.ops = kernel_options(config)
        self.d_state, self.headdim, self.chunk_size = ssm["d_state"], ssm["headdim"], ssm["chunk_size"]
        self.inner = ssm["expand"] * width
        self.heads = self.inner // self.headdim
        channels = self.inner + 2 * self.d_state
        self.in_proj = AutocastLinear(width, self.inner + channels + self.heads, bias=False)
        self.out_proj = AutocastLinear(self.inner, width, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(K, channels, ssm["d_conv"]))
        self.conv_bias = nn.Parameter(torch.empty(K, channels))
        self.A_log = nn.Parameter(torch.empty(K, self.heads))
        self.D = nn.Parameter(torch.empty(K, self.heads))
        self.dt_bias = nn.Parameter(torch.empty(K, self.heads))
        self.norm_weight = nn.Parameter(torch.empty(K, self.inner))

    def matrix_rows(self) -> dict[str, tuple[int, ...]]:
        """Rows of the matrices in each projection: z, x, B, C and dt in ``in_proj``."""
        in_proj = (self.inner, self.inner, self.d_state, self.d_state, self.heads)
        return {"in_proj.weight": in_proj, "out_proj.weight": (self.out_proj.out_features,)}

    @torch.no_grad()
    def initialize(self) -> None:
        """Initialize the parameters as in Mamba-2, but leave the projections unchanged."""
        bound = 1 / math.sqrt(self.conv_weight.shape[-1])
        init.uniform_(self.conv_weight, -bound, bound)
        init.uniform_(self.conv_bias, -bound, bound)
        init.copy_(self.A_log, torch.empty_like(self.A_log).uniform_(1, MAX_A).log())
        init.ones_(self.D)
        span = math.log(MAX_DT) - math.log(MIN_DT)
        dt = (torch.rand_like(self.dt_bias) * span + math.log(MIN_DT)).exp().clamp(min=DT_FLOOR)
        init.copy_(self.dt_bias, dt + torch.log(-torch.expm1(-dt)))
        init.ones_(self.norm_weight)

    def forward(self, x_TD: Tensor, packing: Packing) -> Tensor:
        """Mix positions within each sequence of a packed row."""
        widths = self.inner, self.inner + 2 * self.d_state, self.heads
        (z, xbc, dt), (dz, dxbc, ddt) = split_columns(self.in_proj(x_TD), widths)
        xbc_TKC = kernel_for("convolution", xbc, self.ops)(xbc, self.conv_weight, self.conv_bias, packing, dxbc)
        (x, b, c), (dx, db, dc) = split_columns(xbc_TKC, (self.inner, self.d_state, self.d_state))
        y_TKHP = kernel_for("ssd", x, self.ops)(
            x.unflatten(-1, (self.heads, self.headdim)),
            dt,
            self.dt_bias,
            self.A_log,
            b,
            c,
            self.D,
            packing,
            self.chunk_size,
            ScanGradients(dx, ddt, db, dc),
        )
        return self.out_proj(kernel_for("gated_norm", z, self.ops)(y_TKHP.flatten(2), z, self.norm_weight, dz))
