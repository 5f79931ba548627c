"""Packed rows: variable-length sequences concatenated without padding.

Shapes: S sequences, T positions in total.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Packing:
    """Sequence boundaries of a packed row.

    Attributes:
        starts: (S+1,) int64, index of the first position of every sequence, followed by T (``cu_seqlens`` in
            FlashAttention).
        total: T, the number of positions.
        max_length: upper bound of the sequence lengths, known without a device synchronization.
    """

    starts: Tensor
    total: int
    max_length: int

    @classmethod
    def of_lengths(cls, lengths: Tensor, total: int, max_length: int | None = None) -> Packing:
        """Build from sequence lengths, (S,) int64, and their sum ``total``; ``max_length`` defaults to ``total``."""
        return cls(F.pad(lengths.cumsum(0), (1, 0)), total, total if max_length is None else max_length)

    @cached_property
    def lengths(self) -> Tensor:
        """Length of each sequence, (S,) int64."""
        return self.starts.diff()

    @cached_property
    def sequence(self) -> Tensor:
        """Index of the sequence that each position belongs to, (T,) int64."""
        numbers = torch.arange(len(self.starts) - 1, device=self.starts.device)
        return numbers.repeat_interleave(self.lengths, output_size=self.total)

    @cached_property
    def position(self) -> Tensor:
        """Index of each position within its sequence, (T,) int64."""
        return torch.arange(self.total, device=self.starts.device) - self.starts[self.sequence]

    @cached_property
    def host_lengths(self) -> list[int]:
        """Sequence lengths as a list; on a GPU, this synchronizes the device."""
        return self.lengths.tolist()

    def select(self, mask_T: Tensor) -> tuple[Tensor, Packing]:
        """Select the positions where the mask is true.

        On a GPU, this synchronizes the device, because the number of selected positions M determines tensor shapes.

        Returns:
            Indices of the selected positions, (M,), and the packing of these positions.
        """
        index_M = mask_T.nonzero().squeeze(1)
        kept_before = F.pad(mask_T.cumsum(0), (1, 0))
        return index_M, Packing(kept_before[self.starts], len(index_M), min(self.max_length, len(index_M)))
