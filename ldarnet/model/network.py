"""The hierarchy (H-Net, arXiv 2507.07955): encoder, router, chunking, main network, dechunking, decoder.

The router is in :mod:`ldarnet.model.router`; smoothing and upsampling of chunks are in :mod:`ldarnet.ops.dechunk`.

Shapes: T packed positions of this stage, M packed chunks, D width of the enclosing stage, I width of this stage.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ldarnet.model.blocks import Stack
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.kernel_options import kernel_options
from ldarnet.model.layout import is_innermost, residual_branches
from ldarnet.model.linear import Fp32Linear, init_weight
from ldarnet.model.router import Router
from ldarnet.ops import Packing, kernel_for

SLOT_MULTIPLE = 128
"""A static number of chunks is a multiple of this number, or the number of positions."""

Routing = tuple[Tensor, Tensor, Packing]
"""Output of a router: boundary probability (T,), boundary mask (T,), and packing of the T input positions."""
State = tuple[Tensor, Packing]
"""Output of a stack, (T, D), and packing of its positions."""


class Stage(nn.Module):
    """A stage and all stages inside it; maps (T, D) to (T, D).

    A stage that is wider than the enclosing stage appends a learned vector to each input position, and truncates its
    output to the width of the enclosing stage.

    Attributes:
        slots_per_position: if set, the number of chunks in training mode is this fraction of the positions, rounded up
            to a multiple of :data:`SLOT_MULTIPLE`; unused chunks are padding. See
            ``LDARNetPreTrainedModel.set_chunk_capacity``.
    """

    def __init__(self, config: LDARNetConfig, layout: list, stage: int = 0, branches: int = 0) -> None:
        """Build a stage.

        Args:
            config: model configuration.
            layout: ``[stack]`` or ``[encoder, inner layout, decoder]``.
            stage: stage number; 0 is the outermost stage.
            branches: number of residual branches in the enclosing stages.
        """
        super().__init__()
        self.ops, self.depth = kernel_options(config), stage
        width = config.d_model[stage]
        self.outer_width = config.d_model[max(stage - 1, 0)]
        widening = width - self.outer_width
        self.pad_dimension = nn.Parameter(torch.empty(widening)) if widening else None
        self.innermost = is_innermost(layout)
        self.slots_per_position: float | None = None
        if self.innermost:
            self.main = Stack(config, stage, layout[0], branches + residual_branches(layout[0]))
            return
        encoder, inner, decoder = layout
        branches += residual_branches(encoder, decoder)
        self.encoder = Stack(config, stage, encoder, branches)
        self.residual_proj = init_weight(Fp32Linear(width, width), init.zeros_)
        self.residual_proj.tf32_output = True  # feeds decoders only, never a router
        self.router = Router(width, self.ops)
        self.main = Stage(config, inner, stage + 1, branches)
        self.decoder = Stack(config, stage, decoder, branches)

    def matrix_rows(self) -> dict[str, tuple[int, ...]]:
        """Rows of the matrix of the residual path; empty in the main network."""
        return {} if self.innermost else {"residual_proj.weight": (self.residual_proj.out_features,)}

    def forward(self, x_TD: Tensor, packing: Packing) -> tuple[Tensor, tuple[Routing, ...], tuple[State, ...]]:
        """Run the stage.

        Returns:
            The output, (T, D); one :data:`Routing` per router, starting with this stage's router; and one :data:`State`
            per stack, in the order in which the stacks run.
        """
        if self.pad_dimension is not None:
            x_TD = torch.cat([x_TD, self.pad_dimension.expand(len(x_TD), -1).to(x_TD.dtype)], dim=-1)
        if self.innermost:
            y_TI = self.main(x_TD, packing)
            return y_TI[:, : self.outer_width], (), ((y_TI, packing),)
        h_TI = self.encoder(x_TD, packing)
        residual_TI = self.residual_proj(h_TI)
        p_T, boundary_T = self.router(h_TI, packing)
        if packing.padding:
            boundary_T = boundary_T & packing.real
        # Chunk: the main network sees only the boundary positions.
        boundary_index_M, chunks = self._select(boundary_T, packing)
        inner_MI, inner_routings, inner_states = self.main(h_TI.index_select(0, boundary_index_M), chunks)
        # Dechunk: smooth the chunks, upsample them and add the residual path.
        chunk_of_T = boundary_T.cumsum(0) - 1
        p_M, confidence_T = p_T.index_select(0, boundary_index_M), torch.where(boundary_T, p_T, 1 - p_T)
        if chunks.padding:  # if the chunks do not fit, the output is NaN
            p_M = torch.where(chunk_of_T[-1] < chunks.total, p_M, torch.nan)
            chunk_of_T = chunk_of_T.clamp(max=chunks.total - 1)
        dechunk = kernel_for("dechunk", inner_MI, self.ops)
        y_TI = self.decoder(dechunk(inner_MI, p_M, confidence_T, residual_TI, chunks, chunk_of_T), packing)
        states = ((h_TI, packing), *inner_states, (y_TI, packing))
        return y_TI[:, : self.outer_width], ((p_T, boundary_T, packing), *inner_routings), states

    def _select(self, boundary_T: Tensor, packing: Packing) -> tuple[Tensor, Packing]:
        """Select the first position of each chunk; see `Packing.select` and `Packing.select_static`."""
        if self.slots_per_position is None or not self.training:
            return packing.select(boundary_T)
        slots = math.ceil(self.slots_per_position * packing.total / SLOT_MULTIPLE) * SLOT_MULTIPLE
        return packing.select_static(boundary_T, min(slots, packing.total))
