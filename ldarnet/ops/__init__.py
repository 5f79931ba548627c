"""Operations of the model: each a reference in plain PyTorch, fast backends beside it, one registry that chooses."""

from ldarnet.ops import (  # noqa: F401  (they register themselves)
    attention,
    convolution,
    kernels,
    smoothing,
    ssd,
)
from ldarnet.ops.norm import rms_norm
from ldarnet.ops.packing import Packing
from ldarnet.ops.precision import at_least_fp32, full_precision
from ldarnet.ops.registry import Backend, backends, choose_backends, resolve
from ldarnet.ops.rotary import rotate

__all__ = [
    "Backend",
    "Packing",
    "at_least_fp32",
    "backends",
    "choose_backends",
    "full_precision",
    "resolve",
    "rms_norm",
    "rotate",
]
