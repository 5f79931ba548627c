"""Boundary probabilities from the cosine similarity of neighboring positions, in at least float32.

Shapes: T packed positions, D width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ldarnet.ops.packing import Packing
from ldarnet.ops.registry import REFERENCE, register

MIN_NORM = 1e-12


@register("router", REFERENCE)
def router(q_TD: Tensor, k_TD: Tensor, packing: Packing) -> Tensor:
    """Boundary probability of each position (LDARNet, arXiv 2606.04552).

    p_t = (1 - cos_t) / 2, clamped to [0, 1], where cos_t = (q_{t-1}.k_t + q_t.k_{t-1}) / 2 for q and k scaled to norm 1
    (norms are at least 1e-12). p = 1 at the start of each sequence.

    Args:
        q_TD: queries, at least float32.
        k_TD: keys, at least float32.
        packing: sequence boundaries.

    Returns:
        p, (T,).
    """
    q, k = F.normalize(q_TD, dim=-1, eps=MIN_NORM), F.normalize(k_TD, dim=-1, eps=MIN_NORM)
    cos = ((q[:-1] * k[1:]).sum(-1) + (q[1:] * k[:-1]).sum(-1)) / 2
    p_T = F.pad(((1 - cos) / 2).clamp(0, 1), (1, 0), value=1.0)
    return torch.where(packing.position == 0, 1.0, p_T)
