"""Root-mean-square normalisation, computed in at least float32."""

from torch import Tensor
from torch.nn import functional as F

from ldarnet.ops.precision import at_least_fp32

EPSILON = 1e-5


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + 1e-5) over the last dimension, times a weight; the result is in at least float32.

    A weight of shape (K, D) serves inputs of shape (..., K, D).
    """
    x = at_least_fp32(x)
    return F.rms_norm(x, x.shape[-1:], eps=EPSILON) * weight
