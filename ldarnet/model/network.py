"""The hierarchy: a stage encodes, chunks, runs the stage inside it on the chunks, dechunks and decodes.

Shapes: T packed positions of this stage, M packed chunks, D width of the stage around, I own width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ldarnet.model.blocks import Stack
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.layout import is_innermost, residual_branches
from ldarnet.model.linear import Fp32Linear, init_weight
from ldarnet.model.router import Router
from ldarnet.ops import Packing, kernel_for

Routing = tuple[Tensor, Tensor, Packing]


class Stage(nn.Module):
    """One stage of the hierarchy and all stages inside it; (T, D) to (T, D).

    A wider stage than the one around it lengthens each vector by a learned one and trims the result.
    """

    def __init__(self, config: LDARNetConfig, layout: list, stage: int = 0, branches: int = 0) -> None:
        """Build the stage at this depth from its part of the layout.

        Args:
            config: the model's configuration.
            layout: ``[stack]`` or ``[encoder, inner layout, decoder]``.
            stage: depth, 0 the outermost.
            branches: residual branches of the stages around this one.
        """
        super().__init__()
        self.ops, self.depth = config.ops, stage
        width = config.d_model[stage]
        self.outer_width = config.d_model[max(stage - 1, 0)]
        widening = width - self.outer_width
        self.pad_dimension = nn.Parameter(torch.empty(widening)) if widening else None
        self.innermost = is_innermost(layout)
        if self.innermost:
            self.main = Stack(config, stage, layout[0], branches + residual_branches(layout[0]))
            return
        encoder, inner, decoder = layout
        branches += residual_branches(encoder, decoder)
        self.encoder = Stack(config, stage, encoder, branches)
        self.residual_proj = init_weight(Fp32Linear(width, width), init.zeros_)
        self.router = Router(width)
        self.main = Stage(config, inner, stage + 1, branches)
        self.decoder = Stack(config, stage, decoder, branches)

    def forward(self, x_TD: Tensor, packing: Packing) -> tuple[Tensor, tuple[Routing, ...]]:
        """Run the stage.

        Returns:
            (T, D), and what each router decided, this stage's first: probability (T,), boundary (T,), packing.
        """
        if self.pad_dimension is not None:
            x_TD = torch.cat([x_TD, self.pad_dimension.expand(len(x_TD), -1).to(x_TD.dtype)], dim=-1)
        if self.innermost:
            return self.main(x_TD, packing)[:, : self.outer_width], ()
        h_TI = self.encoder(x_TD, packing)
        residual_TI = self.residual_proj(h_TI)
        p_T, boundary_T = self.router(h_TI, packing)
        kept_M, chunks = packing.select(boundary_T)
        inner_MI, inner_routings = self.main(h_TI.index_select(0, kept_M), chunks)
        chunk_of_T = boundary_T.cumsum(0) - 1
        p_M, confidence_T = p_T.index_select(0, kept_M), torch.where(boundary_T, p_T, 1 - p_T)
        dechunk = kernel_for("dechunk", inner_MI, self.ops)
        y_TI = self.decoder(dechunk(inner_MI, p_M, confidence_T, residual_TI, chunks, chunk_of_T), packing)
        return y_TI[:, : self.outer_width], ((p_T, boundary_T, packing), *inner_routings)
