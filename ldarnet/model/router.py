"""The router: predicts chunk boundaries.

Shapes: B sequences, L positions, T packed positions, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from ldarnet.model.linear import Fp32Linear, init_weight
from ldarnet.ops import Packing

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

    cos_t = (q_{t-1}.k_t + q_t.k_{t-1}) / 2 and p_t = (1 - cos_t) / 2, clamped to [0, 1]; p = 1 at the start of each
    sequence (arXiv 2606.04552). Boundaries are the positions with p > 0.5. The computation is in at least float32,
    even under autocast.
    """

    def __init__(self, width: int) -> None:
        """Build the router with query and key projections initialized to the identity."""
        super().__init__()
        self.q_proj = init_weight(Fp32Linear(width, width, bias=False), init.eye_)
        self.k_proj = init_weight(Fp32Linear(width, width, bias=False), init.eye_)

    def forward(self, h_TD: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """Return the boundary probability and the boundary mask of each position, both (T,)."""
        q = F.normalize(self.q_proj(h_TD), dim=-1)
        k = F.normalize(self.k_proj(h_TD), dim=-1)
        cos = ((q[:-1] * k[1:]).sum(-1) + (q[1:] * k[:-1]).sum(-1)) / 2
        p_T = F.pad(((1 - cos) / 2).clamp(0, 1), (1, 0), value=1.0)
        p_T = torch.where(packing.position == 0, 1.0, p_T)
        return p_T, p_T > THRESHOLD
