"""Column slices of a tensor whose gradients are written into slices of one buffer.

Autograd allocates the gradient of each slice, and then concatenates them. Here, operations write the gradients of their
inputs directly into slices of one buffer, which becomes the gradient of the whole tensor without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

GradientBuffer = Callable[[], Tensor]
"""Returns the memory for the gradient of an input of an operation; called in the backward pass."""


def split_columns(value: Tensor, widths: Sequence[int]) -> tuple[tuple[Tensor, ...], tuple[GradientBuffer, ...]]:
    """Split the last dimension of a contiguous tensor.

    Each slice may be the input of one operation. The operation may write the gradient of the slice into the slice's
    buffer, and return it. Any other gradient is copied.

    Returns:
        The slices, and the gradient buffer of each slice.
    """
    shared = _SharedBuffer(value, widths)
    slices = _SplitColumns.apply(value, shared)
    return slices, tuple(partial(shared.slice, index) for index in range(len(widths)))


def gradient_memory(value: Tensor, buffer: GradientBuffer | None) -> Tensor:
    """Uninitialized memory for the gradient of ``value``, with the same shape, dtype and strides.

    The buffer is used if there is one and its strides are those of ``value``. The gradient of an expanded tensor is
    contiguous.
    """
    if buffer is not None:
        memory = buffer().view(value.shape)
        if memory.dtype == value.dtype and _same_strides(memory, value):
            return memory
    if 0 in value.stride():
        return torch.empty(value.shape, dtype=value.dtype, device=value.device)
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)


def _same_strides(left: Tensor, right: Tensor) -> bool:
    """Whether tensors of one shape have the same strides; those of dimensions of size 1 have no meaning."""
    strides = zip(left.shape, left.stride(), right.stride(), strict=True)
    return all(size == 1 or one == other for size, one, other in strides)


class _SharedBuffer:
    """Gradient of the whole tensor, allocated by the first operation that needs a slice of it."""

    def __init__(self, value: Tensor, widths: Sequence[int]) -> None:
        self.widths = list(widths)
        self._allocate = partial(torch.empty, value.shape, dtype=value.dtype, device=value.device)
        self._memory: Tensor | None = None

    def slice(self, index: int) -> Tensor:
        if self._memory is None:
            self._memory = self._allocate()
        return self._memory.split(self.widths, -1)[index]

    def collect(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Return the whole gradient, and forget it: the next backward pass gets new memory."""
        for index, gradient in enumerate(gradients):
            target = self.slice(index)
            if gradient is None:
                target.zero_()
            elif gradient.data_ptr() != target.data_ptr() or not _same_strides(gradient, target):
                target.copy_(gradient)
        memory, self._memory = self._memory, None
        assert memory is not None
        return memory


class _SplitColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, shared: _SharedBuffer) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.shared = shared
        return value.split(shared.widths, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, None]:  # pyrefly: ignore[bad-override]
        return ctx.shared.collect(gradients), None
