"""Boundaries of a padded batch.

Shapes: B sequences, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

TOTALS = ("counted_boundaries", "counted_probability", "counted_positions", "boundaries", "positions")
"""Totals of a stage: boundaries, sum of boundary probabilities and positions that the ratio loss counts; boundaries and
positions of the stage."""


@dataclass(frozen=True)
class Boundaries:
    """Boundaries of a batch in one stage; positions are bases in the outermost stage and chunks in inner stages.

    Attributes:
        probability: (B, L) boundary probability, at least float32, 0 on padding.
        mask: (B, L) bool, True at the first position of each chunk, False on padding.
        lengths: (B,) int64, sequence lengths without padding.
        counted: (B, L) bool, positions that the ratio loss counts, False on padding; None for all except padding.
    """

    probability: Tensor
    mask: Tensor
    lengths: Tensor
    counted: Tensor | None = None

    def totals(self) -> tuple[Tensor, ...]:
        """Totals over the batch; see `TOTALS`. The sum of probabilities is differentiable."""
        dtype = self.probability.dtype
        boundaries, positions = self.mask.sum(dtype=dtype), self.lengths.sum().to(dtype)
        if self.counted is None:
            return boundaries, self.probability.sum(), positions, boundaries, positions
        counted = self.counted.to(dtype)
        in_loss = (self.mask & self.counted).sum(dtype=dtype), (self.probability * counted).sum(), counted.sum()
        return *in_loss, boundaries, positions

    def first(self, windows: int) -> Boundaries:
        """Boundaries of the first windows of the batch, with probabilities in float64."""
        counted = None if self.counted is None else self.counted[:windows]
        return Boundaries(self.probability[:windows].double(), self.mask[:windows], self.lengths[:windows], counted)
