"""Learned boundaries: the router of LDARNet (arXiv 2606.04552) or of H-Net (arXiv 2507.07955)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import initialization as init

from ldarnet.model.chunking import ChunkingMethod, Options, Routing, Tokens, register
from ldarnet.model.chunking.selection import boundary_probability, select_boundaries
from ldarnet.model.linear import Fp32Linear, Tf32Terms, init_weight, uses_tf32
from ldarnet.ops import KernelOptions, Packing


@register("learned")
class Router(ChunkingMethod):
    """Router, which computes boundary probabilities from the cosine similarity of neighboring positions.

    Options:

    - ``similarity``: ``bidirectional`` (LDARNet) or ``forward`` (H-Net); see `boundary_probability`.
    - ``selection``: ``threshold`` selects the positions with p > 0.5; ``top_k`` selects, in each sequence, the most
      probable 1 / target_ratio of the positions, so that the number of chunks depends only on the length.
    - ``mask_protection``: what the router does at [MASK], which occurs only in pretraining. ``none``: the same as
      elsewhere. ``boundaries``: each masked base is a chunk of its own (DNAChunker, arXiv 2601.03019). ``outside``:
      masked bases are never boundaries, and the router compares each other base with the last base to its left that
      is not masked. The ratio loss does not count positions whose boundaries are fixed in this way.

    The computation is in at least float32, even under autocast. On a GPU, autocast replaces each float32 product by
    three products in TF32 that have the same error.
    """

    OPTIONS = {
        "similarity": ("bidirectional", "forward"),
        "selection": ("threshold", "top_k"),
        "mask_protection": ("none", "boundaries", "outside"),
    }
    has_router = True
    supports_causal = True

    def __init__(self, options: Options, target_ratio: float, width: int, ops: KernelOptions) -> None:
        """Build the router with query and key projections initialized to the identity."""
        super().__init__(options, target_ratio, width, ops)
        self.q_proj = init_weight(Fp32Linear(width, width, bias=False), init.eye_)
        self.k_proj = init_weight(Fp32Linear(width, width, bias=False), init.eye_)
        self.q_proj.gpu_output = self.k_proj.gpu_output = "tf32x3"

    def forward(self, h_TD: Tensor, packing: Packing, tokens: Tokens) -> Routing:
        """Predict the boundaries."""
        match self.options["mask_protection"]:
            case "none":
                return self._select(h_TD, packing)
            case "boundaries":
                return self._isolate(self._select(h_TD, packing), tokens.masked("mask_protection"))
        return self._skip(h_TD, packing, tokens.masked("mask_protection"))

    def _select(self, h_TD: Tensor, packing: Packing) -> Routing:
        p_T = boundary_probability(*self._project(h_TD), packing, self.options["similarity"], self.ops)
        return select_boundaries(p_T, packing, self.options["selection"], self.target_ratio)

    def _project(self, h_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Compute queries and keys."""
        replaced = not (isinstance(self.q_proj, Fp32Linear) and isinstance(self.k_proj, Fp32Linear))  # by an adapter
        if replaced or not uses_tf32(h_TD) or h_TD.dtype != torch.float32:
            return self.q_proj(h_TD), self.k_proj(h_TD)
        terms = Tf32Terms.of(h_TD)
        return self.q_proj(h_TD, terms), self.k_proj(h_TD, terms)

    def _isolate(self, routing: Routing, masked_T: Tensor) -> Routing:
        """Set a boundary at each masked position and at the position to its right in the same sequence."""
        after_T = F.pad(masked_T[:-1], (1, 0)) & (routing.packing.position != 0)
        forced_T = masked_T | after_T
        p_T = torch.where(forced_T, 1.0, routing.probability)
        return Routing(p_T, routing.boundary | forced_T, routing.packing, ~forced_T)

    def _skip(self, h_TD: Tensor, packing: Packing, masked_T: Tensor) -> Routing:
        """Route the positions that are not masked as if the others did not exist; on a GPU, this synchronizes."""
        counted_T = ~masked_T | (packing.position == 0)
        if packing.padding:
            counted_T = counted_T & packing.real
        index_K, packing_K = packing.select(counted_T)
        part = self._select(h_TD.index_select(0, index_K), packing_K)
        p_T = part.probability.new_zeros(packing.total).index_copy(0, index_K, part.probability)
        boundary_T = torch.zeros_like(counted_T).index_copy(0, index_K, part.boundary)
        return Routing(p_T, boundary_T, packing, counted_T)
