"""Router: where chunks begin.

Shapes: B sequences, T packed positions, D width.
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
    """What a router decided for a batch; ``L`` counts bases in the outermost stage and chunks further in.

    Attributes:
        probability: (B, L), at least float32, 0 on padding.
        mask: (B, L), whether a chunk begins here; False on padding.
        lengths: (B,) int64, positions of each sequence that are not padding.
    """

    probability: Tensor
    mask: Tensor
    lengths: Tensor

    def totals(self) -> tuple[Tensor, Tensor, Tensor]:
        """Over the batch, as scalars: number of boundaries, sum of probabilities (with gradient), positions."""
        exact = self.probability.dtype
        return self.mask.sum(dtype=exact), self.probability.sum(), self.lengths.sum().to(exact)


class Router(nn.Module):
    """Bidirectional router: a chunk begins where neighbours are unlike.

    cos_t = (q_{t-1}.k_t + q_t.k_{t-1}) / 2 and p_t = (1 - cos_t) / 2 clamped to [0, 1]; p = 1 at the start of a
    sequence (arXiv 2606.04552). Computed in at least float32 under any autocast.
    """

    def __init__(self, width: int) -> None:
        """Projections start as the identity."""
        super().__init__()
        self.q_proj = init_weight(Fp32Linear(width, width, bias=False), init.eye_)
        self.k_proj = init_weight(Fp32Linear(width, width, bias=False), init.eye_)

    def forward(self, h_TD: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """Boundary probability (T,) and hard boundary (T,); a tie is no boundary."""
        q = F.normalize(self.q_proj(h_TD), dim=-1)
        k = F.normalize(self.k_proj(h_TD), dim=-1)
        cos = ((q[:-1] * k[1:]).sum(-1) + (q[1:] * k[:-1]).sum(-1)) / 2
        p_T = F.pad(((1 - cos) / 2).clamp(0, 1), (1, 0), value=1.0)
        p_T = torch.where(packing.position == 0, 1.0, p_T)
        return p_T, p_T > THRESHOLD
