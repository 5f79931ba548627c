"""Losses of the model: cross-entropy over target positions, and the ratio loss that controls compression.

Shapes: B sequences, L positions, V tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ldarnet.alphabet import IGNORE_INDEX

if TYPE_CHECKING:
    from ldarnet.model.router import Boundaries


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each position in nats; zero where the label is -100.

    Args:
        logits: (B, L, V), at least float32.
        labels: (B, L) int64, -100 at positions that are not predicted.

    Returns:
        Cross-entropies, (B, L), in the dtype of the logits.
    """
    flat = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none")
    return flat.view(labels.shape)


def cross_entropy_by_window(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats, summed over the target positions of each window.

    Args:
        logits: see `cross_entropy`.
        labels: see `cross_entropy`.

    Returns:
        Sums, (B,), in the dtype of the logits.
    """
    return cross_entropy(logits, labels).sum(1)


def ratio_loss(boundary_rate: Tensor, mean_probability: Tensor, target: float) -> Tensor:
    """Ratio loss N/(N-1) ((N-1) F G + (1-F)(1-G)). It is 1 at the target F = G = 1/N.

    Args:
        boundary_rate: F, fraction of positions that are boundaries.
        mean_probability: G, mean boundary probability; carries the gradient.
        target: N, target positions per chunk, above 1.
    """
    F_, G_ = boundary_rate, mean_probability
    return target / (target - 1) * ((target - 1) * F_ * G_ + (1 - F_) * (1 - G_))


def ratio_loss_of_totals(totals: Tensor, target: float) -> Tensor:
    """Compute the ratio loss, summed over stages, from the totals of each stage.

    Args:
        totals: (stages, 3), as returned by `batch_ratio_loss`.
        target: target positions per chunk, above 1.
    """
    boundaries, probability, positions = totals.unbind(1)
    return ratio_loss(boundaries / positions, probability / positions, target).sum()


def batch_ratio_loss(
    boundaries: Sequence[Boundaries],
    target: float,
    *,
    sum_over_ranks: Callable[[Tensor], Tensor] = lambda totals: totals,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Ratio loss summed over stages, with F and G computed over the global batch.

    The value is the same on all ranks. Only the local probabilities carry gradients, so summing the gradients over
    ranks gives the gradient of the loss.

    Args:
        boundaries: one entry per stage with a router.
        target: target positions per chunk, above 1.
        sum_over_ranks: function that sums a tensor over all ranks, possibly in place. By default, the loss is that of
            the local batch.
        dtype: dtype of the computation; by default, the dtype of the probabilities.

    Returns:
        The loss, a scalar, and the global totals, (stages, 3): number of boundaries, sum of boundary probabilities,
        number of positions. If ``boundaries`` is empty, the loss is 0 and the totals are empty, both on the CPU.
    """
    if not boundaries:
        return torch.zeros((), dtype=dtype), torch.zeros(0, 3, dtype=dtype)
    local = torch.stack([torch.stack([total.to(dtype=dtype) for total in stage.totals()]) for stage in boundaries])
    totals = sum_over_ranks(local.detach().clone())
    return ratio_loss_of_totals(local + (totals - local.detach()), target), totals
