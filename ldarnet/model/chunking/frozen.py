"""Boundaries of a router that is never trained."""

from torch import Tensor

from ldarnet.model.chunking import ChunkingMethod, Routing, Tokens, register
from ldarnet.model.chunking.selection import boundary_probability, select_boundaries
from ldarnet.ops import Packing, at_least_fp32


@register("frozen")
class Frozen(ChunkingMethod):
    """The learned method with projections fixed at their initialization, the identity, and without gradients.

    Nothing is trained to place boundaries: the encoder gets no gradient through the boundary probabilities either. The
    ratio loss is a constant, so with ``selection=threshold`` the compression ratio drifts with the encoder;
    ``top_k``, the default, keeps it at ``target_ratio``.
    """

    OPTIONS = {"similarity": ("bidirectional", "forward"), "selection": ("top_k", "threshold")}
    supports_causal = True

    def forward(self, h_TD: Tensor, packing: Packing, tokens: Tokens) -> Routing:
        """Compute the boundaries from the similarity of neighboring encoder outputs."""
        h = at_least_fp32(h_TD.detach())
        p_T = boundary_probability(h, h, packing, self.options["similarity"], self.ops)
        return select_boundaries(p_T, packing, self.options["selection"], self.target_ratio)
