"""Rows in slabs: a CPU works through a long row in pieces that stay in its caches; a GPU takes the row whole."""

import torch

SLAB_ELEMENTS = 64 * 1024
"""In one temporary of a slab, per thread: the dozen that an operation needs in float32 are near a core's cache."""

MIN_ROWS = 256


def slabs(device: torch.device, rows: int, width: int, multiple: int = 1) -> list[slice]:
    """Cut rows 0, 1, ... of ``width`` numbers into slices; all but the last hold a multiple of ``multiple`` rows."""
    height = rows
    if device.type == "cpu":
        height = max(SLAB_ELEMENTS * torch.get_num_threads() // width, MIN_ROWS) // multiple * multiple
    height = max(height, multiple)
    return [slice(first, min(first + height, rows)) for first in range(0, rows, height)]
