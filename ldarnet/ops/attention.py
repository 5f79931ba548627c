"""Local attention on packed rows: each position attends to the positions of its sequence within a window.

Shapes: T packed positions, H heads, P head dimension.

Compute and memory are linear in T for a fixed window.
"""

from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from ldarnet.ops.packing import Packing
from ldarnet.ops.registry import REFERENCE, register

BLOCK = 512
"""Maximum number of queries per block. A block reads its own positions and a window on each side."""

STEP = 64
"""Blocks of narrow windows are a multiple of this."""


@register("attention", REFERENCE)
def attention(
    q_THP: Tensor, k_THP: Tensor, v_THP: Tensor, packing: Packing, window: int, causal: bool = False
) -> Tensor:
    """Softmax attention with scores scaled by 1/sqrt(P).

    Args:
        q_THP: queries.
        k_THP: keys.
        v_THP: values.
        packing: sequence boundaries.
        window: number of positions visible on each side; -1 for the whole sequence.
        causal: whether the positions to the right are not visible.

    Returns:
        Outputs, (T, H, P).
    """
    out_parts, start = [], 0
    for length, run in groupby(packing.host_lengths):
        stop = start + length * len(list(run))
        if stop > start:
            q, k, v = (x[start:stop].unflatten(0, (-1, length)).transpose(1, 2) for x in (q_THP, k_THP, v_THP))
            out_parts.append(_equal_lengths(q, k, v, window, causal).transpose(1, 2).flatten(0, 1))
        start = stop
    return torch.cat(out_parts)


def _equal_lengths(q_SHLP: Tensor, k_SHLP: Tensor, v_SHLP: Tensor, window: int, causal: bool) -> Tensor:
    """Local attention in S sequences of length L, one block of queries at a time; returns (S, H, L, P)."""
    L = q_SHLP.shape[2]
    if window < 0 or window >= L - 1:
        return F.scaled_dot_product_attention(q_SHLP, k_SHLP, v_SHLP, is_causal=causal)
    out_parts, block = [], min((window + STEP + 1) // STEP * STEP, BLOCK)  # a larger block computes more masked scores
    for first in range(0, L, block):
        last = min(first + block, L)
        low, high = max(0, first - window), last if causal else min(L, last + window)
        query = torch.arange(first, last, device=q_SHLP.device)
        key = torch.arange(low, high, device=q_SHLP.device)
        distance = query[:, None] - key
        visible = (distance.abs() <= window) & (distance >= 0) if causal else distance.abs() <= window
        out_parts.append(
            F.scaled_dot_product_attention(
                q_SHLP[:, :, first:last], k_SHLP[:, :, low:high], v_SHLP[:, :, low:high], attn_mask=visible
            )
        )
    return torch.cat(out_parts, dim=2)
