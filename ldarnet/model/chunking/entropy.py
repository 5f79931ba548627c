"""Boundaries where a small context model is surprised.

Shapes: T packed positions, b windows of L bases, R contexts.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ldarnet.alphabet import N
from ldarnet.errors import UserError
from ldarnet.model.chunking import ChunkingMethod, Options, Routing, Tokens, certain, register
from ldarnet.model.chunking.selection import share_counts, top_share
from ldarnet.ops import KernelOptions, Packing

PSEUDOCOUNTS = 4.0
"""Weight of the shorter context, in occurrences of the longer one."""
UNITS_PER_NAT = 1000
"""Resolution of the table. Integers give the same boundaries on every device and in every precision."""
START, UNKNOWN = torch.iinfo(torch.int16).max, -1
"""Surprisal of the first position of a sequence, which is always selected, and of a position without a base."""


@register("entropy")
class Entropy(ChunkingMethod):
    """Boundaries at the most surprising 1 / ``target_ratio`` of the positions of each sequence.

    The surprisal of a base is the negative log-probability under a table of base counts after each context of up to
    ``order`` bases to its left. The table is learned from training windows and saved with the weights. A context ends
    at the first masked base, N or sequence start. Masked bases and N have the lowest surprisal.
    """

    OPTIONS = {"order": (8, *range(1, 8), 9, 10)}
    nested = False
    learns_before_training = True
    table: Tensor

    def __init__(self, options: Options, target_ratio: float, width: int, ops: KernelOptions) -> None:
        """Build the method with an empty table; see `fit`."""
        super().__init__(options, target_ratio, width, ops)
        self._order = options["order"]
        # R rows: the contexts of 0 bases, of 1 base, ..., of `order` bases; one column per base.
        self.register_buffer("table", torch.zeros(_rows_before(self._order + 1), 4, dtype=torch.int16))
        self._has_table = False

    def fit(self, ids_bL: np.ndarray) -> None:
        """Learn the table from windows, (b, L) uint8."""
        self.table.copy_(torch.from_numpy(surprisal_table(ids_bL, self._order)))
        self._has_table = True

    def forward(self, h_TD: Tensor, packing: Packing, tokens: Tokens) -> Routing:
        """Select the most surprising positions."""
        self._check_table()
        surprisal_T = self._surprisal(tokens.required("method=entropy"), packing)
        surprisal_T = surprisal_T.masked_fill(packing.position == 0, START)
        boundary_T = top_share(surprisal_T, packing, self.target_ratio)
        return certain(boundary_T, h_TD, packing, share_counts(packing, self.target_ratio))

    def _surprisal(self, ids_T: Tensor, packing: Packing) -> Tensor:
        """Surprisal of each base, (T,) int16."""
        known_T = ids_T < N
        context_T, bases_T, follows_T = torch.zeros_like(ids_T), torch.zeros_like(ids_T), torch.ones_like(known_T)
        for distance in range(1, self._order + 1):
            follows_T = follows_T & known_T.roll(distance) & (packing.position >= distance)
            context_T = context_T + torch.where(follows_T, ids_T.roll(distance) * 4 ** (distance - 1), 0)
            bases_T = bases_T + follows_T
        row_T = (4**bases_T - 1) // 3 + context_T
        return torch.where(known_T, self.table[row_T, ids_T.clamp(max=N - 1)], UNKNOWN)

    def _check_table(self) -> None:
        """Refuse to run without a table; at the first call after loading, this waits for the device."""
        if not self._has_table:
            if not self.table.any():
                raise UserError(
                    "chunking: method entropy has no table of base counts; pretrain it, or load a saved model"
                )
            self._has_table = True


def surprisal_table(ids_bL: np.ndarray, order: int) -> np.ndarray:
    """Surprisal of each base after each context of up to ``order`` bases, in units of 1 / `UNITS_PER_NAT` nats.

    The probability after a context of k bases is (count + c p) / (occurrences of the context + c), where p is the
    probability after the last k - 1 bases, and c is `PSEUDOCOUNTS`.

    Args:
        ids_bL: windows, (b, L) uint8.
        order: maximum number of bases of a context.

    Returns:
        (R, 4) int16. The row of a context of k bases is (4^k - 1) / 3 plus the sum of 4^(d - 1) times the id of the
        base at distance d.
    """
    counts = [_count(ids_bL, order)]
    while len(counts) <= order:  # the base at the largest distance has the highest place value
        counts.append(counts[-1].reshape(4, -1, 4).sum(0))
    p, tables = np.full((1, 4), 0.25), []
    for count in reversed(counts):
        p = np.tile(p, (len(count) // len(p), 1))
        p = (count + PSEUDOCOUNTS * p) / (count.sum(1, keepdims=True) + PSEUDOCOUNTS)
        tables.append(p)
    surprisal = -UNITS_PER_NAT * np.log(np.concatenate(tables))
    return np.rint(surprisal).clip(1, START - 1).astype(np.int16)


def _count(ids_bL: np.ndarray, order: int) -> np.ndarray:
    """Number of occurrences of each base after each context of ``order`` bases, (4^order, 4) int64."""
    length = max(ids_bL.shape[1] - order, 0)
    code, known = np.zeros((len(ids_bL), length), dtype=np.int64), np.ones((len(ids_bL), length), dtype=bool)
    for distance in range(order + 1):
        base = ids_bL[:, order - distance : order - distance + length].astype(np.int64)
        known &= base < N
        code += base << (2 * distance)  # the base itself has the lowest place value
    return np.bincount(code[known], minlength=4 ** (order + 1)).reshape(-1, 4)


def _rows_before(order: int) -> int:
    """Number of contexts with fewer than ``order`` bases."""
    return (4**order - 1) // 3
