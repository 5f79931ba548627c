# ruff: noqa: ANN001, ANN201 (Triton supports no annotations but tl.constexpr)
"""Helpers for the Triton kernels: tile shapes, accumulator dtypes, SiLU.

The numbers of positions and chunks change from step to step. Kernels take them as arguments that Triton does not
specialize on, which avoids recompilation. Widths are compile-time constants.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 2048
"""Target number of elements in a tile of full rows."""

PROGRAMS = 528
"""Maximum number of programs that each compute a partial weight gradient: four per multiprocessor of an H200."""

ELEMENTS_PER_THREAD = 8


def row_tile(width: int, elements: int = ELEMENTS) -> tuple[int, int, int]:
    """Shape of a tile of full rows.

    Args:
        width: row width.
        elements: target number of elements; a tile always has at least one row.

    Returns:
        Number of rows, number of columns (the width rounded up to a power of two), and number of warps.
    """
    columns = triton.next_power_of_2(width)
    rows = max(1, elements // columns)
    warps = rows * columns // (32 * ELEMENTS_PER_THREAD)
    return rows, columns, min(max(warps, 1), 16)


def accumulator(*dtypes: torch.dtype) -> tl.dtype:
    """Dtype of the computation: float64 if any input is float64, else float32."""
    return tl.float64 if torch.float64 in dtypes else tl.float32


def separate_rows(x: Tensor, dimensions: int) -> Tensor:
    """Return x, or a contiguous copy if its last dimensions are not contiguous or if its rows share memory."""
    inner = torch.empty(x.shape[-dimensions:], device="meta").stride()
    return x if x.stride()[-dimensions:] == inner and 0 not in x.stride() else x.contiguous()


@triton.jit
def silu(x):
    """SiLU: x * sigmoid(x)."""
    return x * tl.sigmoid(x)


@triton.jit
def silu_slope(x):
    """Derivative of SiLU at x."""
    s = tl.sigmoid(x)
    return s * (1 + x * (1 - s))
