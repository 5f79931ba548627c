"""Copies between host and device, and the list of places that wait for the device.

A program waits for the device only where the host needs a value: `HOST_WAITS` lists these places. Everywhere else, the
host only queues work, so that it stays ahead of the device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

HOST_WAITS = {
    "ldarnet/ops/packing.py select": "every forward pass, once per router, unless the number of chunks is static or "
    "depends only on the lengths of the sequences",
    "ldarnet/ops/packing.py host_lengths": "every attention layer, once per packing, with ops.attention=torch",
    "ldarnet/ops/transfer.py to_host": "pretraining: once per logged step and validation, twice per save",
    "ldarnet/model/chunking/given.py find": "every forward pass without boundaries, with chunking method bpe",
    "ldarnet/model/chunking/entropy.py _check_table": "the first forward pass, with chunking method entropy",
    "ldarnet/runtime/engine.py _decide": "every optimizer step with training.offload",
    "ldarnet/runtime/guard.py worst_windows": "pretraining: logged steps and saves, once per skipped step",
    "ldarnet/runtime/host_buffers.py wait": "saves, in the thread that writes the checkpoint; with "
    "training.chunk_capacity_factor, every step, for the step before the last one",
    "ldarnet/pretraining/boundary_sample.py boundary_sample": "validation, with routers",
    "ldarnet/finetuning/evaluation.py run_over": "evaluation, once per batch; and once at the end",
    "ldarnet/finetuning/fold.py _end_epoch": "fine-tuning, once per epoch",
    "ldarnet/finetuning/fold.py _save": "fine-tuning, once per save",
}
"""File and function that waits -> when it does.

DeepSpeed adds none in ZeRO stages 0 to 2. In stage 3, it waits for earlier gathers and reductions, which limits its
memory, and compares the order of the parameters between ranks in the first steps. With training.offload, it copies
gradients and their norm to the host.
"""


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Copy a tensor to the device without waiting, and convert it there.

    From host to GPU, the copy goes through page-locked memory: otherwise, the host could wait for the copy and for all
    work queued before it. Converting on the device keeps the copy small: one byte per base instead of eight.

    Args:
        tensor: tensor on any device; returned as it is if nothing changes.
        device: target device.
        dtype: target dtype; by default, the dtype of the tensor.
    """
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True).to(dtype or tensor.dtype)


def to_host(tensors: Sequence[Tensor | float], device: torch.device) -> list[Tensor]:
    """Copy several tensors to the host in a single transfer, which waits for the device once.

    Args:
        tensors: integers below 2^53 or floating-point numbers, of any shape.
        device: device of most tensors; the others are copied there first.

    Returns:
        float64 tensors on the host, with the shapes of `tensors`.
    """
    parts = [to_device(torch.as_tensor(tensor).detach(), device, torch.float64) for tensor in tensors]
    pieces = torch.cat([part.flatten() for part in parts]).cpu().split([part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
