"""Cache blocking: on a CPU, split a long row into slabs that fit into the caches; on a GPU, use a single slab."""

import torch

SLAB_ELEMENTS = 64 * 1024
"""Elements per thread in each temporary tensor of a slab; a dozen such float32 tensors roughly fill a core's cache."""

MIN_ROWS = 256


def slabs(device: torch.device, rows: int, width: int, multiple: int = 1) -> list[slice]:
    """Split ``rows`` rows of ``width`` elements into slices; all but the last hold a multiple of ``multiple`` rows."""
    height = rows
    if device.type == "cpu":
        height = max(SLAB_ELEMENTS * torch.get_num_threads() // width, MIN_ROWS) // multiple * multiple
    height = max(height, multiple)
    return [slice(first, min(first + height, rows)) for first in range(0, rows, height)]
