"""Losses of the model: cross-entropy over target positions, and the ratio loss that controls compression.

Shapes: B sequences, L positions, V tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ldarnet.alphabet import IGNORE_INDEX
from ldarnet.model.boundaries import TOTALS, Boundaries


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


def next_labels(labels: Tensor, real: Tensor, unscored: Sequence[int | None]) -> Tensor:
    """Targets of next-token prediction: the label of the next position.

    Args:
        labels: (B, L) int64, -100 at positions that are not predicted.
        real: (B, L) bool, False on padding.
        unscored: tokens that are not predicted.

    Returns:
        Targets, (B, L) int64; -100 at the last position of each row, on padding and before it, and before tokens that
        are not predicted.
    """
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
    predicted = real & F.pad(real[:, 1:], (0, 1), value=False)
    for token in unscored:
        predicted = predicted & (targets != token)
    return targets.masked_fill(~predicted, IGNORE_INDEX)


def ratio_loss(boundary_rate: Tensor, mean_probability: Tensor, target: float) -> Tensor:
    """Ratio loss N/(N-1) ((N-1) F G + (1-F)(1-G)). It is 1 at the target F = G = 1/N.

    Args:
        boundary_rate: F, fraction of positions that are boundaries.
        mean_probability: G, mean boundary probability; carries the gradient.
        target: N, target positions per chunk, above 1.
    """
    F_, G_ = boundary_rate, mean_probability
    return target / (target - 1) * ((target - 1) * F_ * G_ + (1 - F_) * (1 - G_))


def hinge_ratio_loss(boundary_rate: Tensor, mean_probability: Tensor, target: float) -> Tensor:
    """Hinge ratio loss max(N F - 1, 0). It is 0 unless there are more than 1/N boundaries per position.

    The idea is that of FLEXITOKENS (arXiv 2507.12720). F passes its gradient to G (straight-through).

    Args:
        boundary_rate: see `ratio_loss`.
        mean_probability: see `ratio_loss`.
        target: see `ratio_loss`.
    """
    rate = boundary_rate.detach() + (mean_probability - mean_probability.detach())
    return F.relu(target * rate - 1)


RATIO_LOSSES = {"two_sided": ratio_loss, "hinge": hinge_ratio_loss}


def ratio_loss_of_totals(totals: Tensor, target: float, form: str = "two_sided") -> Tensor:
    """Compute the ratio loss, summed over stages, from the totals of each stage.

    Args:
        totals: (stages, 5), as returned by `batch_ratio_loss`.
        target: target positions per chunk, above 1.
        form: key of `RATIO_LOSSES`.
    """
    boundaries, probability, positions = totals[:, :3].unbind(1)
    return RATIO_LOSSES[form](boundaries / positions, probability / positions, target).sum()


def batch_ratio_loss(
    boundaries: Sequence[Boundaries],
    target: float,
    *,
    form: str = "two_sided",
    sum_over_ranks: Callable[[Tensor], Tensor] = lambda totals: totals,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Ratio loss summed over stages, with F and G computed over the global batch.

    The value is the same on all ranks. Only the local probabilities carry gradients, so summing the gradients over
    ranks gives the gradient of the loss.

    Args:
        boundaries: one entry per stage with a router.
        target: target positions per chunk, above 1.
        form: key of `RATIO_LOSSES`.
        sum_over_ranks: function that sums a tensor over all ranks, possibly in place. By default, the loss is that of
            the local batch.
        dtype: dtype of the computation; by default, the dtype of the probabilities.

    Returns:
        The loss, a scalar, and the global totals, (stages, 5), with the columns `TOTALS` of
        :mod:`ldarnet.model.boundaries`. If ``boundaries`` is empty, the loss is 0 and the totals are empty, both on the
        CPU.
    """
    if not boundaries:
        return torch.zeros((), dtype=dtype), torch.zeros(0, len(TOTALS), dtype=dtype)
    local = torch.stack([torch.stack([total.to(dtype=dtype) for total in stage.totals()]) for stage in boundaries])
    totals = sum_over_ranks(local.detach().clone())
    return ratio_loss_of_totals(local + (totals - local.detach()), target, form), totals
