"""Boundaries on a regular grid."""

from __future__ import annotations

from torch import Tensor

from ldarnet.model.chunking import ChunkingMethod, Routing, Tokens, certain, register
from ldarnet.model.chunking._hashing import sequence_keys
from ldarnet.model.chunking.selection import share_counts
from ldarnet.ops import Packing


@register("grid")
class Grid(ChunkingMethod):
    """A boundary at every ``target_ratio``-th position, and at the start of each sequence.

    With ``phase=fixed``, the grid begins at the start of the sequence. With ``phase=random``, its offset is a
    pseudorandom function of ``seed`` and the tokens of the sequence.
    """

    OPTIONS = {"phase": ("fixed", "random"), "seed": int}
    supports_causal = True

    def forward(self, h_TD: Tensor, packing: Packing, tokens: Tokens) -> Routing:
        """Return the grid."""
        step, position = int(self.target_ratio), packing.position
        if self.options["phase"] == "fixed":
            return certain(position % step == 0, h_TD, packing, share_counts(packing, step))
        keys_S = sequence_keys(tokens.required("phase=random"), packing, int(self.options["seed"]))
        position = position + keys_S[packing.sequence] % step
        return certain(position % step == 0, h_TD, packing)

    @classmethod
    def check(cls, target_ratio: float) -> None:
        """Check that the target ratio is an integer."""
        if target_ratio != int(target_ratio):
            raise ValueError(f"target_ratio: {target_ratio:g} must be an integer for chunking method grid")
