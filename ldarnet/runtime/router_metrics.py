"""Router statistics of a step: counted on the device, all-reduced, and logged in metrics.jsonl.

The first position of a sequence is always a boundary, so all counts except `chunks` exclude it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ldarnet.alphabet import TOKENS
from ldarnet.model.boundaries import Boundaries
from ldarnet.runtime.distributed import World

BINS = 20
"""Number of equal-width histogram bins for boundary probabilities from 0 to 1."""
LAGS = range(2, 33)
"""Distances, in positions, at which the autocorrelation of boundaries is measured; adjacent positions are excluded."""
SHOWN = TOKENS[:6]
"""Input tokens for which boundaries are reported: A, C, G, T, N, [MASK]."""
NEAR_MAX = 0.95
"""The period is the smallest lag whose autocorrelation is at least this fraction of the maximum: multiples of the true
period have almost the same autocorrelation."""


@dataclass(frozen=True)
class RouterCounts:
    """Boundary counts of a batch, int64 on the device.

    The `stages` dimension has one entry per stage with a router, outermost stage first.

    Attributes:
        histogram: number of positions in each bin of boundary probability, (stages, BINS).
        boundaries: number of boundaries, (stages,).
        pairs: number of boundary pairs at each distance in `LAGS`, (stages, len(LAGS)).
        possible: number of position pairs at each distance in `LAGS`, (stages, len(LAGS)).
        tokens: counts for each input token in `SHOWN`, (2, len(SHOWN)). Row 0: boundaries of the outermost stage at
            this token; row 1: positions with this token.
        chunks: number of chunks, (stages,); after `all_reduced`, (ranks, stages).
    """

    histogram: Tensor
    boundaries: Tensor
    pairs: Tensor
    possible: Tensor
    tokens: Tensor
    chunks: Tensor

    @classmethod
    def of(cls, stages: Sequence[Boundaries], input_ids: Tensor) -> "RouterCounts":
        """Count the boundaries of a batch.

        Args:
            stages: boundaries of each stage with a router, outermost first; at least one.
            input_ids: token ids without padding, (windows, bases).
        """
        histogram, boundaries, pairs, possible = (
            torch.stack(parts) for parts in zip(*map(_count_stage, stages), strict=True)
        )
        mask, ids = stages[0].mask[:, 1:], input_ids[:, 1:]
        tokens = torch.stack([torch.stack([(mask & (ids == token)).sum(), (ids == token).sum()]) for token in range(6)])
        chunks = torch.stack([stage.mask.sum() for stage in stages])
        return cls(histogram, boundaries, pairs, possible, tokens.T.contiguous(), chunks)

    @classmethod
    def of_step(cls, micro_steps: list["RouterCounts"]) -> "RouterCounts | None":
        """Sum the counts of all micro-steps; None for an empty list (a model without routers)."""
        if not micro_steps:
            return None
        columns = zip(*(part.tensors() for part in micro_steps), strict=True)
        return cls(*(torch.stack(column).sum(0) for column in columns))

    def all_reduced(self, world: World) -> "RouterCounts":
        """Sum the counts over all ranks, except `chunks`, which becomes (ranks, stages); every rank must call this."""
        by_rank = self.chunks.new_zeros(world.size, len(self.chunks))
        by_rank[world.rank] = self.chunks
        parts = [*self.tensors()[:-1], by_rank]
        summed = world.sum_on_device(torch.cat([part.flatten() for part in parts]))
        pieces = summed.split([part.numel() for part in parts])
        return RouterCounts(*(piece.view_as(part) for piece, part in zip(pieces, parts, strict=True)))

    def tensors(self) -> list[Tensor]:
        """All counts, in the order of the attributes."""
        return [getattr(self, field.name) for field in fields(self)]


def router_metrics(counts: RouterCounts | None) -> dict[str, Any]:
    """Compute the router metrics of a logged step.

    Args:
        counts: all-reduced counts, float64 on the host; None for a model without routers.

    Returns:
        Metrics by name; empty for a model without routers.

        Lists with one entry per stage, outermost first:
            `boundary_histogram`: fraction of positions in each bin of boundary probability.
            `periodicity`: maximum autocorrelation of the boundaries (1: evenly spaced, 0: independent).
            `period`: distance in positions at which the boundaries repeat.
            `chunk_imbalance`: maximum divided by mean number of chunks per rank.

        Dicts by input token, for the outermost stage:
            `boundary_tokens`: fraction of all boundaries that are at this token.
            `boundary_rate`: fraction of the positions with this token that are boundaries.
    """
    if counts is None:
        return {}
    histogram, boundaries, pairs, possible, tokens, chunks = counts.tensors()
    periods = [_strongest_period(*stage) for stage in zip(boundaries, histogram.sum(1), pairs, possible, strict=True)]
    return {
        "boundary_histogram": _rounded(histogram / histogram.sum(1, keepdim=True).clamp(min=1)),
        "boundary_tokens": _by_token(tokens[0] / tokens[0].sum().clamp(min=1), tokens[1]),
        "boundary_rate": _by_token(tokens[0] / tokens[1].clamp(min=1), tokens[1]),
        "periodicity": [strength for strength, _ in periods],
        "period": [period for _, period in periods],
        "chunk_imbalance": _rounded(chunks.amax(0) / chunks.mean(0)),
    }


def boundaries_at_bases(stages: Sequence[Boundaries]) -> list[Tensor]:
    """Find the first base of each chunk in every stage.

    Args:
        stages: boundaries of each stage with a router, outermost first.

    Returns:
        One mask per stage, (windows, bases), True at the first base of each chunk.
    """
    masks: list[Tensor] = []
    for stage in stages:
        if not masks:
            masks.append(stage.mask)
            continue
        chunk = (masks[-1].cumsum(1) - 1).clamp(min=0)
        masks.append(masks[-1] & stage.mask.gather(1, chunk))
    return masks


def _count_stage(stage: Boundaries) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Count the boundaries of one stage.

    Returns:
        `histogram`, `boundaries`, `pairs` and `possible` of `RouterCounts`, without the `stages` dimension.
    """
    width = stage.mask.shape[1]
    inside = torch.arange(1, width, device=stage.mask.device) < stage.lengths[:, None]
    probability = stage.probability.detach()[:, 1:].nan_to_num(0.0)  # NaN only in steps that the guard skips
    bins = (probability * BINS).long().clamp(max=BINS - 1)
    histogram = inside.new_zeros(BINS, dtype=torch.int64).scatter_add_(0, bins.flatten(), inside.flatten().long())
    mask = stage.mask[:, 1:]
    pairs = torch.stack([(mask[:, lag:] & mask[:, : max(width - 1 - lag, 0)]).sum() for lag in LAGS])
    lags = torch.arange(LAGS.start, LAGS.stop, device=mask.device)
    possible = (stage.lengths[:, None] - 1 - lags).clamp(min=0).sum(0)
    return histogram, mask.sum(), pairs, possible


def _strongest_period(boundaries: Tensor, positions: Tensor, pairs: Tensor, possible: Tensor) -> tuple[float, int]:
    """Return the maximum autocorrelation of a stage's boundaries, and their period; (0.0, 0) if undefined."""
    rate = boundaries / positions.clamp(min=1)
    if not 0 < rate < 1 or not possible.any():
        return 0.0, 0
    correlation = (pairs / possible.clamp(min=1) - rate**2) / (rate - rate**2)
    correlation = torch.where(possible > 0, correlation, 0.0)
    strongest = correlation.max()
    first = int((correlation >= NEAR_MAX * strongest).nonzero()[0]) if strongest > 0 else int(correlation.argmax())
    return round(float(strongest), 4), LAGS[first]


def _rounded(values: Tensor) -> Any:
    return [[round(entry, 5) for entry in row] if isinstance(row, list) else round(row, 5) for row in values.tolist()]


def _by_token(values: Tensor, positions: Tensor) -> dict[str, float]:
    """Map token names to values, for tokens with at least one position."""
    shown = zip(SHOWN, values.tolist(), positions.tolist(), strict=True)
    return {name.strip("[]"): round(value, 5) for name, value, number in shown if number}
