"""Boundaries of the learned router with the chunks of each sequence in random order."""

import torch
from torch import Tensor

from ldarnet.model.chunking import Routing, Tokens, register
from ldarnet.model.chunking._hashing import random_bits, sequence_keys
from ldarnet.model.chunking._rearranged import RearrangedRouter
from ldarnet.model.chunking.selection import sort_within_sequences


@register("permuted")
class Permuted(RearrangedRouter):
    """The learned chunk lengths in random order: the same compression and the same lengths, but no content.

    The order is a pseudorandom function of ``seed`` and the tokens of the sequence.
    """

    def sources(self, routing: Routing, tokens: Tokens) -> Tensor:
        """Shuffle the chunks of each sequence."""
        packing = routing.packing
        keys_S = sequence_keys(tokens.required("method=permuted"), packing, int(self.options["seed"]))
        draws_T = random_bits(keys_S[packing.sequence], packing.position)
        # The positions of a chunk are sorted by the draw at its first position, and thus stay together.
        rows_T = torch.arange(packing.total, device=draws_T.device)
        first_T = torch.where(routing.boundary, rows_T, 0).cummax(0).values
        return sort_within_sequences(draws_T[first_T], packing)
