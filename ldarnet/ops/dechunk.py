"""Dechunking: smooth the chunks, upsample them to bases and add the residual path.

In inner stages, "bases" are the chunks of the enclosing stage.

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
    probability: Tensor,
    confidence_T: Tensor,
    residual_TD: Tensor,
    chunks: Packing,
    chunk_of_T: Tensor,
) -> Tensor:
    """Exponential smoothing of chunks, upsampled to bases and added to the residual.

    The smoothed chunk z_j is the mean of two scans, or one scan alone. The scan from left to right is
    f_j = p_j c_j + (1 - p_j) f_{j-1}; the scan from right to left uses f_{j+1} instead of f_{j-1}. p is clamped to
    [1e-4, 1 - 1e-4], and f is zero outside the sequence.

    The output is y_t = residual_t + STE(s_t) z_j for every base t of chunk j, where STE is the straight-through
    estimator (LDARNet, arXiv 2606.04552; H-Net, arXiv 2507.07955, section 2.2).

    Args:
        chunk_MD: outputs c of the main network.
        probability: p of each chunk: (M,) for two scans with the same p, (2, M) for two scans with different p (see
            `mirrored`), or (1, M) for the scan from left to right alone. In the published model, p is the boundary
            probability at the first base of the chunk.
        confidence_T: router confidence s of each base, which is p at boundaries and 1 - p elsewhere.
        residual_TD: residual path around the main network.
        chunks: packing of the chunks.
        chunk_of_T: index of the chunk that each base belongs to.

    Returns:
        y, (T, D), in at least float32.
    """
    with full_precision(chunk_MD.device):
        chunk = at_least_fp32(chunk_MD)
        p = at_least_fp32(probability).clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY).to(chunk.dtype)
        M, D = chunk.shape
        K = directions(p)
        p_MK = p.view(-1, M).t()  # one column if both scans have the same p
        x = (p_MK[:, :, None] * chunk[:, None])[:, :, None].expand(M, K, 1, D)
        log_decay = torch.log1p(-p_MK)[:, :, None].expand(M, K, 1)
        ones = chunk.new_ones(M, K, 1)
        z_MD = blocked_scan(x, log_decay, ones, ones, chunks, min(BLOCK, M)).mean(1).view(M, D)
        return upsample(z_MD, confidence_T, residual_TD, chunk_of_T)


def directions(probability: Tensor) -> int:
    """Number of scans, 1 or 2; see the argument ``probability`` of `dechunk`."""
    return 2 if probability.dim() == 1 else len(probability)


def mirrored(probability_M: Tensor, chunks: Packing) -> Tensor:
    """Boundary probabilities of both scans, (2, M), such that reversing a sequence reverses its smoothed chunks.

    The probability of a boundary decides how much crosses it, in both directions: the scan from left to right uses the
    boundary before each chunk, and the scan from right to left the boundary after it. Both ends of a sequence are
    boundaries of probability 1.
    """
    return torch.stack([probability_M, torch.where(chunks.position == 0, 1, probability_M).roll(-1)])


def upsample(z_MD: Tensor, confidence_T: Tensor, residual_TD: Tensor, chunk_of_T: Tensor) -> Tensor:
    """Upsample smoothed chunks to bases and add the residual; see `dechunk`."""
    return torch.addcmul(residual_TD, z_MD.index_select(0, chunk_of_T), straight_through(confidence_T)[:, None])


def straight_through(x: Tensor) -> Tensor:
    """Straight-through estimator: 1 in the forward pass, identity in the backward pass."""
    return 1 + (x - x.detach())
