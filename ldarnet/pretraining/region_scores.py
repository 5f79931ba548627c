"""Validation metrics by region of the genome."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ldarnet.alphabet import IGNORE_INDEX
from ldarnet.data import Batch, Regions
from ldarnet.model.router import Boundaries
from ldarnet.runtime.router_metrics import boundaries_at_bases


class RegionScores:
    """Accumulates sums over validation windows by region.

    Attributes:
        sums: (regions, 3 + stages) float64 on the device: summed loss, target positions, bases, and boundaries of
            each stage; all-reduce this tensor before calling `metrics`.
    """

    def __init__(self, regions: Regions, length: int, stages: int, device: torch.device) -> None:
        self._regions, self._length = regions, length
        self.sums = torch.zeros(len(regions.names), 3 + stages, dtype=torch.float64, device=device)

    def add(self, batch: Batch, labels: Tensor, losses: Tensor, stages: Sequence[Boundaries]) -> None:
        """Add the windows of a batch that are not padding.

        Args:
            batch: the batch; only its first `batch.windows` rows count.
            labels: (B, L), -100 at positions that are not predicted.
            losses: (B, L), loss of each position in nats.
            stages: boundaries of each stage.
        """
        if not batch.windows:
            return
        assert batch.locations is not None
        rows = slice(batch.windows)
        masks = self._regions.masks(batch.locations.contig[rows], batch.locations.start[rows], self._length)
        masks_RT = torch.from_numpy(masks).to(losses.device).flatten(1).double()
        bases = [losses, labels != IGNORE_INDEX, torch.ones_like(losses), *boundaries_at_bases(stages)]
        columns_TC = torch.stack([column[rows].flatten().double() for column in bases], dim=1)
        self.sums += masks_RT @ columns_TC

    def metrics(self, sums: Tensor) -> dict[str, Any]:
        """Compute `mlm_loss`, `bases_per_chunk` and `scored` (target positions) per region; if 0, only `scored`."""
        metrics = {}
        for name, (loss, scored, bases, *boundaries) in zip(self._regions.names, sums.tolist(), strict=True):
            chunks = [bases / max(number, 1) for number in boundaries]
            means = {"mlm_loss": loss / scored, "bases_per_chunk": chunks} if scored else {}
            metrics[name] = {**means, "scored": int(scored)}
        return metrics
