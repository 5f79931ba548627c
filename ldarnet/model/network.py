"""The hierarchy (H-Net, arXiv 2507.07955): encoder, router, chunking, main network, dechunking, decoder.

Chunking methods are in :mod:`ldarnet.model.chunking`; smoothing and upsampling of chunks are in
:mod:`ldarnet.ops.dechunk`.

Shapes: T packed positions of this stage, M packed chunks, D width of the enclosing stage, I width of this stage.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ldarnet.model.blocks import Stack
from ldarnet.model.chunking import Routing, Tokens
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.kernel_options import kernel_options
from ldarnet.model.layout import is_innermost, residual_branches
from ldarnet.model.linear import Fp32Linear, init_weight
from ldarnet.ops import Packing, at_least_fp32, kernel_for
from ldarnet.ops.dechunk import mirrored, upsample

SLOT_MULTIPLE = 128
"""A static number of chunks is a multiple of this number, or the number of positions."""

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
        self.residual, self.smoothing = config.chunking["residual"], config.chunking["smoothing"]
        if self.residual != "none":
            self.residual_proj = init_weight(Fp32Linear(width, width), init.zeros_)
            self.residual_proj.gpu_output = "tf32"  # feeds decoders only, never a router
        self.router = config.chunking_method(config.chunking, config.target_ratio, width, self.ops)
        self.router.causal = config.causal
        self.main = Stage(config, inner, stage + 1, branches)
        self.decoder = Stack(config, stage, decoder, branches)

    def matrix_rows(self) -> dict[str, tuple[int, ...]]:
        """Rows of the matrix of the residual path; empty without one."""
        if self.innermost or self.residual == "none":
            return {}
        return {"residual_proj.weight": (self.residual_proj.out_features,)}

    def forward(
        self, x_TD: Tensor, packing: Packing, tokens: Tokens
    ) -> tuple[Tensor, tuple[Routing, ...], tuple[State, ...]]:
        """Run the stage.

        Returns:
            The output, (T, D); one :class:`Routing` per router, starting with this stage's router; and one
            :data:`State` per stack, in the order in which the stacks run.
        """
        if self.pad_dimension is not None:
            x_TD = torch.cat([x_TD, self.pad_dimension.expand(len(x_TD), -1).to(x_TD.dtype)], dim=-1)
        if self.innermost:
            y_TI = self.main(x_TD, packing)
            return y_TI[:, : self.outer_width], (), ((y_TI, packing),)
        h_TI = self.encoder(x_TD, packing)
        residual_TI = self._residual(h_TI, tokens)
        routing = self.router(h_TI, packing, tokens)
        p_T, boundary_T = routing.probability, routing.boundary
        if packing.padding:
            boundary_T = boundary_T & packing.real
            routing = replace(routing, boundary=boundary_T)
        # Chunk: the main network sees only the boundary positions.
        boundary_index_M, chunks = self._select(routing, packing)
        chunk_MI = h_TI.index_select(0, boundary_index_M)
        inner_tokens = tokens if self.main.innermost else tokens.select(boundary_index_M)  # unused by a stack
        inner_MI, inner_routings, inner_states = self.main(chunk_MI, chunks, inner_tokens)
        # Dechunk: smooth the chunks, upsample them and add the residual path.
        chunk_of_T = boundary_T.cumsum(0) - 1
        p_M, confidence_T = p_T.index_select(0, boundary_index_M), torch.where(boundary_T, p_T, 1 - p_T)
        if chunks.padding:  # if the chunks do not fit, the output is NaN
            p_M = torch.where(chunk_of_T[-1] < chunks.total, p_M, torch.nan)
            chunk_of_T = chunk_of_T.clamp(max=chunks.total - 1)
        y_TI = self.decoder(self._dechunk(inner_MI, p_M, confidence_T, residual_TI, chunks, chunk_of_T), packing)
        states = ((h_TI, packing), *inner_states, (y_TI, packing))
        return y_TI[:, : self.outer_width], (routing, *inner_routings), states

    def _select(self, routing: Routing, packing: Packing) -> tuple[Tensor, Packing]:
        """Select the first position of each chunk; only `Packing.select` waits for the device."""
        boundary_T = routing.boundary
        if routing.chunks is not None:
            return packing.select_known(boundary_T, routing.chunks)
        if self.slots_per_position is None or not self.training:
            return packing.select(boundary_T)
        slots = math.ceil(self.slots_per_position * packing.total / SLOT_MULTIPLE) * SLOT_MULTIPLE
        return packing.select_static(boundary_T, min(slots, packing.total))

    def _dechunk(
        self,
        chunk_MI: Tensor,
        p: Tensor,
        confidence_T: Tensor,
        residual_TI: Tensor,
        chunks: Packing,
        chunk_of_T: Tensor,
    ) -> Tensor:
        """Apply the option ``smoothing`` of chunking; see `ldarnet.ops.dechunk`. The output is NaN where p is."""
        if self.smoothing == "none":
            chunk_MI = at_least_fp32(chunk_MI).masked_fill(p.isnan()[:, None], torch.nan)
            return upsample(chunk_MI, confidence_T, residual_TI, chunk_of_T)
        if self.smoothing == "mirrored":
            p = mirrored(p, chunks)
        elif self.smoothing == "forward":
            p = p[None]
        dechunk = kernel_for("dechunk", chunk_MI, self.ops)
        return dechunk(chunk_MI, p, confidence_T, residual_TI, chunks, chunk_of_T)

    def _residual(self, h_TI: Tensor, tokens: Tokens) -> Tensor:
        """Residual path around the main network, (T, I); the option ``masked`` of chunking closes it at [MASK]."""
        if self.residual == "none":
            return at_least_fp32(torch.zeros_like(h_TI))
        residual_TI = self.residual_proj(h_TI)
        if self.residual == "masked":
            residual_TI = residual_TI.masked_fill(tokens.masked("residual=masked")[:, None], 0)
        return residual_TI
