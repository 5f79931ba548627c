"""Boundaries of the learned router, moved to other positions."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ldarnet.model.chunking import Routing, Tokens
from ldarnet.model.chunking.learned import Router
from ldarnet.ops import Packing


class RearrangedRouter(Router):
    """The learned router, whose boundaries and probabilities are moved to other positions.

    The probability of each position moves together with its boundary, so the router is trained as usual, but what it
    learns about the content of a sequence does not reach the chunks.
    """

    OPTIONS = {"similarity": ("bidirectional", "forward"), "selection": ("threshold", "top_k"), "seed": int}
    supports_causal = False

    def forward(self, h_TD: Tensor, packing: Packing, tokens: Tokens) -> Routing:
        """Predict the boundaries, and move them."""
        routing = self._select(h_TD, packing)
        source_T, start_T = self.sources(routing, tokens), packing.position == 0
        p_T = torch.where(start_T, 1.0, routing.probability[source_T])
        return Routing(p_T, routing.boundary[source_T] | start_T, packing)

    @abstractmethod
    def sources(self, routing: Routing, tokens: Tokens) -> Tensor:
        """Index of the position from which each position takes its probability and boundary, (T,) int64."""
