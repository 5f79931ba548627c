"""Packed rows: variable-length sequences concatenated without padding.

Shapes: S sequences, T positions in total.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
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
        padding: number of sequences at the end that are padding.
        known_lengths: length of each sequence, where the host knows it.
    """

    starts: Tensor
    total: int
    max_length: int
    padding: int = field(default=0, kw_only=True)
    known_lengths: tuple[int, ...] | None = field(default=None, kw_only=True)

    @classmethod
    def of_lengths(
        cls, lengths: Tensor, total: int, max_length: int | None = None, known: tuple[int, ...] | None = None
    ) -> Packing:
        """Build from sequence lengths, (S,) int64, and their sum ``total``; ``max_length`` defaults to ``total``.

        ``known`` are the lengths on the host, if the host knows them.
        """
        starts = F.pad(lengths.cumsum(0), (1, 0))
        return cls(starts, total, total if max_length is None else max_length, known_lengths=known)

    @property
    def sequences(self) -> int:
        """S without padding sequences."""
        return len(self.starts) - 1 - self.padding

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
    def real(self) -> Tensor:
        """Boolean mask, (T,), that is False in padding sequences."""
        return torch.arange(self.total, device=self.starts.device) < self.starts[self.sequences]

    @cached_property
    def derived(self) -> dict[str, Tensor]:
        """Tensors that kernels compute from the starts once, for all layers."""
        return {}

    @cached_property
    def host_lengths(self) -> list[int]:
        """Sequence lengths as a list; on a GPU, this synchronizes the device unless the lengths are known."""
        return self.lengths.tolist() if self.known_lengths is None else [*self.known_lengths]

    @cached_property
    def _host_starts(self) -> list[int]:
        return self.starts.tolist()

    def starts_between(self, first: int, last: int) -> Tensor:
        """Starts of sequences after position ``first`` and before ``last``; on a GPU, of all sequences but the first.

        On a GPU, the number of starts must not depend on their values, because that would synchronize the device.
        """
        if not self.starts.is_cpu:
            return self.starts[1:-1]
        return self.starts[bisect_right(self._host_starts, first) : bisect_left(self._host_starts, last)]

    def select(self, mask_T: Tensor) -> tuple[Tensor, Packing]:
        """Select the positions where the mask is true.

        On a GPU, this synchronizes the device, because the number of selected positions M determines tensor shapes.
        `select_known` and `select_static` do not.

        Returns:
            Indices of the selected positions, (M,), and the packing of these positions.
        """
        index_M = mask_T.nonzero().squeeze(1)
        return index_M, Packing(self._starts_after(mask_T.cumsum(0)), len(index_M), min(self.max_length, len(index_M)))

    def select_known(self, mask_T: Tensor, lengths: tuple[int, ...]) -> tuple[Tensor, Packing]:
        """Select the positions where the mask is true, without a device synchronization.

        Args:
            mask_T: the mask.
            lengths: number of selected positions in each sequence.

        Returns:
            The result of `select`.
        """
        total, kept_T = sum(lengths), mask_T.cumsum(0)
        index_M = torch.searchsorted(kept_T, torch.arange(1, total + 1, device=mask_T.device))
        return index_M, Packing(self._starts_after(kept_T), total, max(lengths), known_lengths=lengths)

    def select_static(self, mask_T: Tensor, slots: int) -> tuple[Tensor, Packing]:
        """Select the first ``slots`` positions where the mask is true, without a device synchronization.

        Unused slots hold arbitrary positions, one per slot. They form padding sequences of at most ``max_length``
        positions.

        Args:
            mask_T: the mask.
            slots: M, at most T.

        Returns:
            Indices of the selected positions, (M,), and their packing, whose shapes do not depend on the mask.
        """
        kept_T, slot_M = mask_T.cumsum(0), torch.arange(slots, device=mask_T.device)
        index_M = torch.searchsorted(kept_T, slot_M + 1)
        index_M = torch.where(index_M < self.total, index_M, slot_M)
        length = min(self.max_length, slots)
        padding = -(-slots // length)
        padding_ends = kept_T[-1] + length * torch.arange(1, padding + 1, device=mask_T.device)
        starts = torch.cat([self._starts_after(kept_T), padding_ends]).clamp(max=slots)
        return index_M, Packing(starts, slots, length, padding=padding)

    def _starts_after(self, kept_T: Tensor) -> Tensor:
        """Starts of the sequences after a selection; ``kept_T`` counts the selected positions up to each position."""
        return F.pad(kept_T, (1, 0))[self.starts[: self.sequences + 1]]
