"""Random boundaries."""

from torch import Tensor

from ldarnet.model.chunking import ChunkingMethod, Routing, Tokens, certain, register
from ldarnet.model.chunking._hashing import random_bits, sequence_keys
from ldarnet.ops import Packing

_BITS = 53


@register("random")
class Random(ChunkingMethod):
    """A boundary at each position with probability 1 / ``target_ratio``, and at the start of each sequence.

    The draws are a pseudorandom function of ``seed``, the tokens of the sequence and the position in it. They do not
    depend on the rest of the batch.
    """

    OPTIONS = {"seed": int}

    def forward(self, h_TD: Tensor, packing: Packing, tokens: Tokens) -> Routing:
        """Draw the boundaries."""
        keys_S = sequence_keys(tokens.required("method=random"), packing, int(self.options["seed"]))
        bits_T = random_bits(keys_S[packing.sequence], packing.position, _BITS)
        return certain(bits_T < round(2**_BITS / self.target_ratio), h_TD, packing)
