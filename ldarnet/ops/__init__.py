"""Operations of the model: a PyTorch reference for each, faster backends, a registry, and dispatch."""

from ldarnet.ops import (  # noqa: F401  (registered on import, references first)
    attention,
    convolution,
    dechunk,
    gated_norm,
    norm,
    rotary,
    router,
    ssd,
    swiglu,
)

# After the references: dispatch prefers the backend that was registered last.
from ldarnet.ops import external, kernels  # noqa: F401  isort: skip
from ldarnet.ops.columns import split_columns
from ldarnet.ops.dispatch import KernelOptions, choose_backends, input_dtype, kernel_for, resolve, skip_reason
from ldarnet.ops.packing import Packing
from ldarnet.ops.precision import at_least_fp32, full_precision, matmul_dtype, tf32
from ldarnet.ops.registry import Backend, backends_of, operations
from ldarnet.ops.ssd import ScanGradients
from ldarnet.ops.transfer import to_device, to_host
from ldarnet.ops.verify import DEFAULT_SIZES, Sizes

__all__ = [
    "DEFAULT_SIZES",
    "Backend",
    "KernelOptions",
    "Packing",
    "ScanGradients",
    "Sizes",
    "at_least_fp32",
    "backends_of",
    "choose_backends",
    "full_precision",
    "input_dtype",
    "kernel_for",
    "matmul_dtype",
    "operations",
    "resolve",
    "skip_reason",
    "split_columns",
    "tf32",
    "to_device",
    "to_host",
]
