"""Dechunking: smoothed chunks brought back to every base and added to the residual path.

Shapes: T packed bases, M packed chunks, D width.
"""

import torch
from torch import Tensor

from ldarnet.ops.packing import Packing
from ldarnet.ops.precision import at_least_fp32, full_precision
from ldarnet.ops.registry import REFERENCE, register
from ldarnet.ops.ssd import blocked_scan

BLOCK = 32
MIN_PROBABILITY = 1e-4


@register("dechunk", REFERENCE)
def dechunk(
    chunk_MD: Tensor,
    probability_M: Tensor,
    confidence_T: Tensor,
    residual_TD: Tensor,
    chunks: Packing,
    chunk_of_T: Tensor,
) -> Tensor:
    """Exponential smoothing of chunks in both directions, averaged, repeated for every base of its chunk, and added.

    Forward z_j = p_j c_j + (1 - p_j) z_{j-1}, backward the same from j+1, with p clamped away from 0 and 1 and z = 0
    beyond the ends of a sequence; y_t = residual_t + s_t z_j for the bases t of chunk j, where s_t counts as 1 and
    passes its gradient on to the confidence (LDARNet, arXiv 2606.04552; H-Net, arXiv 2507.07955, section 2.2).

    Args:
        chunk_MD: chunks.
        probability_M: boundary probability of each chunk's first base.
        confidence_T: the router's confidence in its decision at every base.
        residual_TD: what is added.
        chunks: which chunks belong to which sequence.
        chunk_of_T: the chunk each base belongs to.

    Returns:
        (T, D), computed in at least float32.
    """
    with full_precision(chunk_MD.device):
        chunk = at_least_fp32(chunk_MD)
        p = at_least_fp32(probability_M).clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY).to(chunk.dtype)
        M, D = chunk.shape
        x = (p[:, None] * chunk).view(M, 1, 1, D).expand(M, 2, 1, D)
        log_decay = torch.log1p(-p).view(M, 1, 1).expand(M, 2, 1)
        ones = chunk.new_ones(M, 2, 1)
        z_MD = blocked_scan(x, log_decay, ones, ones, chunks, min(BLOCK, M)).mean(1).view(M, D)
        return torch.addcmul(residual_TD, z_MD.index_select(0, chunk_of_T), straight_through(confidence_T)[:, None])


def straight_through(x: Tensor) -> Tensor:
    """1 in the forward pass, the identity in the backward pass."""
    return 1 + (x - x.detach())
