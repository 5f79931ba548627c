"""Validation metrics per genomic region, as configured by `validation.regions`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ldarnet.alphabet import IGNORE_INDEX
from ldarnet.data import Batch, Regions
from ldarnet.model.boundaries import Boundaries
from ldarnet.ops import to_device
from ldarnet.runtime.router_metrics import boundaries_at_bases


class RegionScores:
    """Sums losses and counts boundaries over the validation windows, separately for each region.

    Attributes:
        sums: (regions, 3 + stages) float64 on the device. Columns: summed loss, number of target positions, number of
            bases, and number of boundaries of each stage. All-reduce this tensor before calling `metrics`.
    """

    def __init__(self, regions: Regions, length: int, stages: int, device: torch.device, loss_name: str) -> None:
        self._regions, self._length, self._loss_name = regions, length, loss_name
        self.sums = torch.zeros(len(regions.names), 3 + stages, dtype=torch.float64, device=device)

    def add(self, batch: Batch, labels: Tensor, losses: Tensor, stages: Sequence[Boundaries]) -> None:
        """Add the windows of a batch.

        Args:
            batch: validation batch; rows after the first `batch.windows` are padding and ignored.
            labels: (B, L), true base at positions that are predicted, otherwise -100.
            losses: (B, L), loss of the prediction of each position in nats.
            stages: boundaries of each stage.
        """
        if not batch.windows:
            return
        assert batch.locations is not None
        rows = slice(batch.windows)
        masks = self._regions.masks(batch.locations.contig[rows], batch.locations.start[rows], self._length)
        masks_RT = to_device(torch.from_numpy(masks), losses.device, torch.float64).flatten(1)
        columns = [losses, labels != IGNORE_INDEX, torch.ones_like(losses), *boundaries_at_bases(stages)]
        columns_TC = torch.stack([column[rows].flatten().double() for column in columns], dim=1)
        self.sums += masks_RT @ columns_TC

    def metrics(self, sums: Tensor) -> dict[str, Any]:
        """Compute metrics per region from the all-reduced `sums`, which should be on the host.

        Returns:
            Region name -> `mlm_loss` or `next_base_loss`, `bases_per_chunk`, and `scored`, the number of targets.
            A region without targets has only `scored`.
        """
        metrics = {}
        for name, (loss, scored, bases, *boundaries) in zip(self._regions.names, sums.tolist(), strict=True):
            chunks = [bases / max(number, 1) for number in boundaries]
            means = {self._loss_name: loss / scored, "bases_per_chunk": chunks} if scored else {}
            metrics[name] = {**means, "scored": int(scored)}
        return metrics
