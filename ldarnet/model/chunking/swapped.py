"""Boundaries that the learned router predicts for another sequence of the batch."""

import torch
from torch import Tensor

from ldarnet.model.chunking import Routing, Tokens, register
from ldarnet.model.chunking._rearranged import RearrangedRouter


@register("swapped")
class Swapped(RearrangedRouter):
    """Each sequence takes the boundaries of the next sequence of the batch, and the last one those of the first.

    The boundaries of a shorter sequence repeat from its start. A sequence that is alone in its batch takes its own
    boundaries from half its length on, and then from its start. Results thus depend on the batch.
    """

    OPTIONS = {key: values for key, values in RearrangedRouter.OPTIONS.items() if key != "seed"}

    def sources(self, routing: Routing, tokens: Tokens) -> Tensor:
        """Take each position from the next sequence."""
        packing = routing.packing
        donor_T = (packing.sequence + 1) % packing.sequences
        shift_T = packing.lengths[donor_T] // 2 if packing.sequences == 1 else torch.zeros_like(donor_T)
        return packing.starts[donor_T] + (packing.position + shift_T) % packing.lengths[donor_T].clamp(min=1)
