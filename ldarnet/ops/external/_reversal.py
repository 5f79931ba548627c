"""Reversal of each sequence of a packed row, for kernels that run in only one direction."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldarnet.ops.packing import Packing


def reversal_index(packing: Packing) -> Tensor:
    """Index of shape (T,) that reverses each sequence of a packed row; the index is its own inverse."""
    first_T = packing.starts[packing.sequence]
    return first_T + packing.lengths[packing.sequence] - 1 - packing.position


def permute_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Permute rows by an index that is its own inverse."""
    return _PermuteRowsFunction.apply(rows, index)


class _PermuteRowsFunction(torch.autograd.Function):
    """Autograd function whose backward pass permutes by the same index.

    The backward pass of ``index_select`` would use atomic adds.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        return rows.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, drows: Tensor) -> tuple[Tensor, None]:  # pyrefly: ignore[bad-override]
        return drows.index_select(0, ctx.saved_tensors[0]), None
