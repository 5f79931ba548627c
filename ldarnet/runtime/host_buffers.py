"""Host memory for the tensors of a checkpoint."""

from collections.abc import Iterator

import torch
from torch import Tensor


class HostBuffers:
    """Host copies of named tensors, in memory that is allocated once and reused by the next checkpoint.

    On a GPU, the memory is page-locked, and `copy` only queues the copies: kernels that are queued later, such as the
    next optimizer step, run after them. Call `wait` before reading the copies, from any thread. On a CPU, `copy`
    returns after the copies are complete.

    Args:
        device: device of the tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._buffers: dict[str, Tensor] = {}
        self._copied: torch.cuda.Event | None = None

    def copy(self, tensors: Iterator[tuple[str, Tensor]], keep: bool) -> dict[str, Tensor]:
        """Exhaust an iterator of named tensors; if `keep`, copy each tensor and return the copies by name.

        The previous copies of these names are overwritten. Tensors are copied one at a time, so that gathered tensors
        do not accumulate on the device.
        """
        copies = {}
        for name, tensor in tensors:
            if keep:
                copies[name] = self._buffer(name, tensor).copy_(tensor.detach(), non_blocking=True)
        if copies and self._pinned:
            self._copied = torch.cuda.Event(blocking=True)
            self._copied.record()
        return copies

    def wait(self) -> None:
        """Wait until all copies are complete."""
        if self._copied is not None:
            self._copied.synchronize()

    def _buffer(self, name: str, tensor: Tensor) -> Tensor:
        buffer = self._buffers.get(name)
        if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
            buffer = self._buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._pinned)
        return buffer
