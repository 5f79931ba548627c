# ruff: noqa: ANN001, ANN201 (Triton takes no types of arguments but tl.constexpr)
"""What our Triton kernels share: how rows are cut into tiles, in what they add up, the gate.

Numbers of positions and chunks differ from step to step: kernels take them as arguments that Triton does not specialise
on, so that nothing is compiled again. Widths are constants of a kernel.
"""

import torch
import triton
import triton.language as tl

ELEMENTS = 2048
"""Of a tile that holds whole rows."""

PROGRAMS = 528
"""At most so many programs add up a gradient of weights, each its own part: four for each multiprocessor of an H200."""

ELEMENTS_PER_THREAD = 8


def row_tile(width: int, elements: int = ELEMENTS) -> tuple[int, int, int]:
    """The shape of a tile of whole rows.

    Args:
        width: of a row.
        elements: of the tile, where a row is not longer.

    Returns:
        Rows; columns, a power of two that is not below the width; warps.
    """
    columns = triton.next_power_of_2(width)
    rows = max(1, elements // columns)
    warps = rows * columns // (32 * ELEMENTS_PER_THREAD)
    return rows, columns, min(max(warps, 1), 16)


def accumulator(*dtypes: torch.dtype) -> tl.dtype:
    """What a kernel computes in: float64 if an input is, else float32."""
    return tl.float64 if torch.float64 in dtypes else tl.float32


@triton.jit
def silu(x):
    """x sigmoid(x)."""
    return x * tl.sigmoid(x)


@triton.jit
def silu_slope(x):
    """The derivative of silu at x."""
    s = tl.sigmoid(x)
    return s * (1 + x * (1 - s))
