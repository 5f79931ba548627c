"""Boundary probabilities from similarities, and selection of boundaries.

Shapes: T packed positions, S sequences, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ldarnet.model.chunking import Routing
from ldarnet.ops import KernelOptions, Packing, kernel_for

THRESHOLD = 0.5
"""Positions with a boundary probability above this value are boundaries."""


def boundary_probability(
    q_TD: Tensor, k_TD: Tensor, packing: Packing, similarity: object, ops: KernelOptions
) -> Tensor:
    """Boundary probability from the cosine similarity of neighboring positions.

    If ``similarity`` is ``bidirectional``, see :func:`ldarnet.ops.router.router`. If it is ``forward``, the probability
    is that of H-Net (arXiv 2507.07955): p_t = (1 - cos(q_t, k_{t-1})) / 2, and p = 1 at the start of each sequence.

    Args:
        q_TD: queries, at least float32.
        k_TD: keys, at least float32.
        packing: sequence boundaries.
        similarity: ``bidirectional`` or ``forward``.
        ops: selection of the kernel.

    Returns:
        p, (T,), in the dtype of the queries.
    """
    if similarity == "bidirectional":
        return kernel_for("router", q_TD, ops)(q_TD, k_TD, packing)
    cos = (F.normalize(q_TD[1:], dim=-1) * F.normalize(k_TD[:-1], dim=-1)).sum(-1)
    p_T = F.pad(((1 - cos) / 2).clamp(0, 1), (1, 0), value=1.0)
    return torch.where(packing.position == 0, 1.0, p_T)


def select_boundaries(p_T: Tensor, packing: Packing, selection: object, ratio: float) -> Routing:
    """Select boundaries by probability: with ``top_k``, see `top_share`; with ``threshold``, positions with p > 0.5."""
    if selection == "top_k":
        return Routing(p_T, top_share(p_T, packing, ratio), packing, chunks=share_counts(packing, ratio))
    return Routing(p_T, p_T > THRESHOLD, packing)


def top_share(p_T: Tensor, packing: Packing, ratio: float) -> Tensor:
    """Select the ceil(L / ratio) positions with the highest probability in each sequence of length L.

    Of equal probabilities, the position further left is selected.

    Returns:
        Boundary mask, (T,) bool; it is True at the start of each sequence, where p must be 1.
    """
    keys_T = p_T.detach()
    keys_T = keys_T.masked_fill(keys_T.isnan(), -1)  # so that the start of a sequence stays first
    order_T = sort_within_sequences(keys_T, packing, descending=True)
    chosen_T = packing.position < torch.ceil(packing.lengths.double() / ratio)[packing.sequence]
    return torch.zeros_like(chosen_T).index_copy(0, order_T, chosen_T)


def share_counts(packing: Packing, ratio: float) -> tuple[int, ...] | None:
    """Number of positions that `top_share` selects in each sequence; None if the host does not know the lengths."""
    lengths = packing.known_lengths
    return None if lengths is None else tuple(math.ceil(length / ratio) for length in lengths)


def sort_within_sequences(keys_T: Tensor, packing: Packing, *, descending: bool = False) -> Tensor:
    """Indices that sort the positions of each sequence by their keys, (T,) int64; equal keys keep their order."""
    by_key = keys_T.argsort(descending=descending, stable=True)
    return by_key[packing.sequence[by_key].argsort(stable=True)]
