"""Operations of the model: each a reference in plain PyTorch, fast backends beside it, one registry, one choice."""

from ldarnet.ops import (  # noqa: F401  (they register themselves, the references first)
    attention,
    convolution,
    dechunk,
    gated_norm,
    norm,
    ssd,
    swiglu,
)

# Kept apart from the references: those registered later are preferred.
from ldarnet.ops import external, kernels  # noqa: F401  isort: skip
from ldarnet.ops.dispatch import choose_backends, input_dtype, kernel_for, resolve, skip_reason
from ldarnet.ops.packing import Packing
from ldarnet.ops.precision import at_least_fp32, full_precision, matmul_dtype
from ldarnet.ops.registry import Backend, backends_of, operations
from ldarnet.ops.rotary import rotate

__all__ = [
    "Backend",
    "Packing",
    "at_least_fp32",
    "backends_of",
    "choose_backends",
    "full_precision",
    "input_dtype",
    "kernel_for",
    "matmul_dtype",
    "operations",
    "resolve",
    "rotate",
    "skip_reason",
]
