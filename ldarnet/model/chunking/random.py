"""Random boundaries."""

from torch import Tensor

from ldarnet.model.chunking import ChunkingMethod, Routing, Tokens, certain, register
from ldarnet.model.chunking._hashing import prefix_keys, random_bits, sequence_keys
from ldarnet.ops import Packing

_BITS = 53


@register("random")
class Random(ChunkingMethod):
    """A boundary at each position with probability 1 / ``target_ratio``, and at the start of each sequence.

    The draws are a pseudorandom function of ``seed``, the tokens of the sequence and the position in it. They do not
    depend on the rest of the batch. In a causal model, the draw at a position depends only on the tokens up to it.
    """

    OPTIONS = {"seed": int}
    supports_causal = True

    def forward(self, h_TD: Tensor, packing: Packing, tokens: Tokens) -> Routing:
        """Draw the boundaries."""
        ids_T, seed = tokens.required("method=random"), int(self.options["seed"])
        keys_T = (
            prefix_keys(ids_T, packing, seed) if self.causal else sequence_keys(ids_T, packing, seed)[packing.sequence]
        )
        bits_T = random_bits(keys_T, packing.position, _BITS)
        return certain(bits_T < round(2**_BITS / self.target_ratio), h_TD, packing)
