"""Host memory for the tensors of a checkpoint."""

from collections.abc import Iterator

import torch
from torch import Tensor


class HostBuffers:
    """Host copies of named tensors. The memory is allocated once and reused by later calls of `copy`.

    On a GPU, the memory is page-locked, and `copy` may return before the copies are complete. Kernels that are launched
    after `copy`, such as those of the next optimizer step, run after the copies. Call `wait` before reading the copies;
    any thread may call it. On a CPU, the copies are complete when `copy` returns.

    Args:
        device: device of the tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._buffers: dict[str, Tensor] = {}
        self._copied: torch.cuda.Event | None = None

    def copy(self, tensors: Iterator[tuple[str, Tensor]], keep: bool) -> dict[str, Tensor]:
        """Copy named tensors to the host; return the copies by name.

        Earlier copies of these names are overwritten. Tensors are copied one at a time, so that gathered tensors do not
        accumulate on the device.

        Args:
            tensors: iterator that gathers each tensor from all ranks; it is always exhausted.
            keep: whether to copy. If False, nothing is copied and an empty dict is returned.
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
