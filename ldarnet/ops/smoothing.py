"""The dechunking scan: smoothed chunks, from both sides, brought back to every base.

Shapes: T packed bases, M packed chunks, D width.
"""

import torch
from torch import Tensor

from ldarnet.ops.packing import Packing
from ldarnet.ops.precision import at_least_fp32, full_precision
from ldarnet.ops.registry import REFERENCE, register
from ldarnet.ops.ssd import blocked_scan

BLOCK = 32
SMALLEST_PROBABILITY = 1e-4


@register("smoothing", REFERENCE)
def smoothing(chunk_MD: Tensor, probability_M: Tensor, packing: Packing, chunk_of_T: Tensor) -> Tensor:
    """Exponential smoothing of chunks in both directions, averaged, then repeated for every base of its chunk.

    Forward z_j = p_j c_j + (1 - p_j) z_{j-1}, backward the same from j+1, with p clamped away from 0 and 1 and z = 0
    beyond the ends of a sequence (LDARNet, arXiv 2606.04552; H-Net, arXiv 2507.07955, equation 5).

    Args:
        chunk_MD: chunks.
        probability_M: boundary probability of each chunk's first base.
        packing: which chunks belong to which sequence.
        chunk_of_T: the chunk each base belongs to.

    Returns:
        (T, D), computed in at least float32.
    """
    with full_precision(chunk_MD.device):
        chunk = at_least_fp32(chunk_MD)
        p = at_least_fp32(probability_M).clamp(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY).to(chunk.dtype)
        M, D = chunk.shape
        x = (p[:, None] * chunk).view(M, 1, 1, D).expand(M, 2, 1, D)
        log_decay = torch.log1p(-p).view(M, 1, 1).expand(M, 2, 1)
        ones = chunk.new_ones(M, 2, 1)
        z = blocked_scan(x, log_decay, ones, ones, packing, min(BLOCK, M))
        return z.mean(1).view(M, D).index_select(0, chunk_of_T)
