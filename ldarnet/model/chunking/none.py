"""No compression: every position is a chunk."""

from __future__ import annotations

import torch
from torch import Tensor

from ldarnet.model.chunking import ChunkingMethod, Routing, Tokens, certain, register
from ldarnet.ops import Packing


@register("none")
class NoChunking(ChunkingMethod):
    """A boundary at every position; ``target_ratio`` has no effect."""

    supports_causal = True

    def forward(self, h_TD: Tensor, packing: Packing, tokens: Tokens) -> Routing:
        """Return a boundary at every position."""
        every_T = torch.ones_like(packing.position, dtype=torch.bool)
        return certain(every_T, h_TD, packing, packing.known_lengths)

    @classmethod
    def expected_ratio(cls, target_ratio: float) -> float:
        """One position per chunk."""
        return 1.0
