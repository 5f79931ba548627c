"""The router: predicts chunk boundaries.

Shapes: B sequences, L positions, T packed positions, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import initialization as init

from ldarnet.model.linear import Fp32Linear, init_weight
from ldarnet.ops import KernelOptions, Packing, kernel_for

THRESHOLD = 0.5


@dataclass(frozen=True)
class Boundaries:
    """Boundaries of a batch in one stage; positions are bases in the outermost stage and chunks in inner stages.

    Attributes:
        probability: (B, L) boundary probability, at least float32, 0 on padding.
        mask: (B, L) bool, True at the first position of each chunk, False on padding.
        lengths: (B,) int64, sequence lengths without padding.
    """

    probability: Tensor
    mask: Tensor
    lengths: Tensor

    def totals(self) -> tuple[Tensor, Tensor, Tensor]:
        """Totals over the batch: number of boundaries, sum of probabilities (differentiable), number of positions."""
        dtype = self.probability.dtype
        return self.mask.sum(dtype=dtype), self.probability.sum(), self.lengths.sum().to(dtype)


class Router(nn.Module):
    """Bidirectional router, which computes boundary probabilities from the cosine similarity of neighboring positions.

    See :func:`ldarnet.ops.router.router`. Boundaries are the positions with p > 0.5. The computation is in at least
    float32, even under autocast.
    """

    def __init__(self, width: int, ops: KernelOptions) -> None:
        """Build the router with query and key projections initialized to the identity."""
        super().__init__()
        self.ops = ops
        self.q_proj = init_weight(Fp32Linear(width, width, bias=False), init.eye_)
        self.k_proj = init_weight(Fp32Linear(width, width, bias=False), init.eye_)

    def forward(self, h_TD: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """Return the boundary probability and the boundary mask of each position, both (T,)."""
        q_TD, k_TD = self.q_proj(h_TD), self.k_proj(h_TD)
        p_T = kernel_for("router", q_TD, self.ops)(q_TD, k_TD, packing)
        return p_T, p_T > THRESHOLD
