"""Sequences of unequal length laid end to end in one row, so that no position is padding.

Shapes: S sequences, T positions in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Packing:
    """Where each of S sequences lies in a row of T positions.

    Attributes:
        starts: (S+1,) int64, the first position of every sequence, then T.
        total: T.
        max_length: an upper bound of the lengths, known without asking the device.
    """

    starts: Tensor
    total: int
    max_length: int

    @classmethod
    def of_lengths(cls, lengths: Tensor, total: int, max_length: int | None = None) -> Packing:
        """The packing of sequences with these lengths, (S,) int64, whose sum is ``total``."""
        return cls(F.pad(lengths.cumsum(0), (1, 0)), total, total if max_length is None else max_length)

    @cached_property
    def lengths(self) -> Tensor:
        """(S,) int64."""
        return self.starts.diff()

    @cached_property
    def sequence(self) -> Tensor:
        """(T,) int64, the number of the sequence that each position belongs to."""
        numbers = torch.arange(len(self.starts) - 1, device=self.starts.device)
        return numbers.repeat_interleave(self.lengths, output_size=self.total)

    @cached_property
    def position(self) -> Tensor:
        """(T,) int64, the distance of each position from the start of its own sequence."""
        return torch.arange(self.total, device=self.starts.device) - self.starts[self.sequence]

    @cached_property
    def host_lengths(self) -> list[int]:
        """The lengths on the host; on a GPU this waits for the device."""
        return self.lengths.tolist()

    def select(self, mask_T: Tensor) -> tuple[Tensor, Packing]:
        """Keep the positions where the mask holds.

        The number kept decides the shape of what follows, so this waits for the device.

        Returns:
            Indices of the kept positions, (M,), and the packing of what is kept.
        """
        index_M = mask_T.nonzero().squeeze(1)
        kept_before = F.pad(mask_T.cumsum(0), (1, 0))
        return index_M, Packing(kept_before[self.starts], len(index_M), min(self.max_length, len(index_M)))
