"""Faster computation of blocks with moderate decays, for the scan on a CPU.

The decay from position s to a later position t of a block is exp(r_t - r_s), where r_t is the sum of the log decays up
to t. `ldarnet.ops.ssd` computes it for all pairs of positions and all heads. If the decay across the block is not too
small, the factors ``decay_t`` = exp(r_t) and ``inverse_s`` = exp(-r_s) can be represented, and the scan within a block
is a product with matrices that all heads share:

    y_t = decay_t (sum_{s < t} (c_t . b_s) lifted_s + c_t . S_in) + (skip + (c_t . b_t) scale_t) x_t
    S_out = decay_last (S_in + sum_s b_s lifted_s^T)
    lifted_s = inverse_s scale_s x_s

The term s = t has no decay. It is separate from the sum because the gradient of the log decays is a difference of sums
in which it would cancel, and would leave rounding errors.

Shapes: T packed positions, K directions, H heads, P head dimension, N state width. A row consists of B blocks of Q
positions, and is processed in slabs of C blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ldarnet.ops.packing import Packing
from ldarnet.ops.precision import at_least_fp32
from ldarnet.ops.scan_states import pass_states, sum_up_to

MAX_LOG_DECAY = 50.0
"""Maximum negated log decay across a block; with larger ones, products with gradients of 1e-16 could underflow."""

MIN_BLOCK = 16


class FactoredRow:
    """Arguments of a scan, split into blocks of several sizes; each slab uses the largest size that works."""

    def __init__(self, tensors: Sequence[Tensor], packing: Packing, block: int) -> None:
        """Prepare a row.

        Args:
            tensors: x, scale, log decay, b, c and skip of the scan.
            packing: sequence boundaries.
            block: maximum block size. Slabs consist of whole blocks of this size, except at the end of the row.
        """
        self.packing = packing
        self._projections = list(zip(*(tensors[i].unbind(1) for i in (0, 3, 4)), strict=True))
        self._skip = at_least_fp32(tensors[5])[..., None]
        N, P = tensors[3].shape[-1], tensors[0].shape[-1]
        sizes = [block]
        while sizes[-1] % 2 == 0 and sizes[-1] > MIN_BLOCK and sizes[-1] ** 2 >= 2 * N * P:
            sizes.append(sizes[-1] // 2)  # unless passing states between more blocks would cost more than it saves
        padding = 0, 0, 0, 0, 0, -packing.total % block
        scale, log_decay = (F.pad(at_least_fp32(tensors[i]), padding) for i in (1, 2))
        self.blocks = [_Blocks(scale, log_decay, size) for size in sizes]

    @cached_property
    def _neighbors(self) -> Tensor:
        """Sequence of each position, with an additional position on each side of the row, (T+2,)."""
        return F.pad(self.packing.sequence, (1, 1), value=-1)

    def slab(self, rows: slice, k: int) -> FactoredSlab | None:
        """Collect the tensors of a slab in direction ``k``; None if a decay across a block is too small."""
        length = rows.stop - rows.start
        for blocks in self.blocks:
            size = min(blocks.size, length)
            index = slice(rows.start // blocks.size, -(-rows.stop // blocks.size)), slice(0, size)
            if length % size == 0 and max(blocks.across[k][index[0]]) <= MAX_LOG_DECAY:
                by_position, through = blocks.of(k)
                x, b, c = (at_least_fp32(part[rows].view(-1, size, *part.shape[1:])) for part in self._projections[k])
                scale, decay, inverse, inverse_scaled = by_position[:, *index].unbind()
                fresh, masks = self._boundaries(rows, k, size)
                return FactoredSlab(
                    x=x,
                    b=b,
                    c=c,
                    skip=self._skip[k],
                    scale=scale,
                    decay=decay,
                    inverse=inverse,
                    inverse_scaled=inverse_scaled,
                    through=through[index[0]],
                    k=k,
                    fresh=fresh,
                    masks=masks,
                )
        return None

    def _boundaries(self, rows: slice, k: int, size: int) -> tuple[bool, _Masks | None]:
        """Whether no state enters the slab, and the masks of its blocks, if it contains a sequence boundary."""
        entry = rows.stop if k else rows.start
        fresh = len(self.packing.starts_between(entry - 1, entry + 1)) > 0
        if not len(self.packing.starts_between(rows.start, rows.stop)):
            return fresh, None
        sequence = self.packing.sequence[rows].view(-1, size)
        first = rows.start + size + 1 if k else rows.start
        before = self._neighbors[first::size][: len(sequence), None]
        enters, leaves = sequence == before, sequence == sequence[:, 0 if k else -1, None]
        return fresh, _Masks(enters[..., None], leaves[..., None], sequence[:, :, None] != sequence[:, None, :])


class _Blocks:
    """Decays of all blocks of a size, in each direction."""

    def __init__(self, scale_TKH: Tensor, log_decay_TKH: Tensor, size: int) -> None:
        self.size = size
        self.scale_BQKH, self.log_decay_BQKH = (x.unflatten(0, (-1, size)) for x in (scale_TKH, log_decay_TKH))
        self._of: dict[int, tuple[Tensor, Tensor]] = {}

    @cached_property
    def across(self) -> list[list[float]]:
        """Maximum negated log decay over the heads across each block, [K][B]."""
        return self.log_decay_BQKH.sum(1).neg_().amax(-1).t().tolist()

    def of(self, k: int) -> tuple[Tensor, Tensor]:
        """Decays in direction ``k``.

        Returns:
            Scale, ``decay``, ``inverse`` and ``inverse`` times scale, (4, B, Q, H, 1); decays across blocks, (B, H, 1).
        """
        if k not in self._of:
            reach, scale = sum_up_to(self.log_decay_BQKH[:, :, k], k), self.scale_BQKH[:, :, k]
            decay, inverse = reach.exp(), reach.neg_().exp_()
            by_position = torch.stack([scale, decay, inverse, inverse * scale])
            self._of[k] = by_position[..., None], decay[:, 0 if k else -1, :, None]
        return self._of[k]


class _Masks(NamedTuple):
    """Sequence boundaries in a slab.

    Attributes:
        enters: (C, Q, 1), whether a position belongs to the last sequence of the previous block.
        leaves: (C, Q, 1), whether a position belongs to the last sequence of its block.
        cross_sequence: (C, Q, Q), whether two positions belong to different sequences.
    """

    enters: Tensor
    leaves: Tensor
    cross_sequence: Tensor


class FactoredSlab(NamedTuple):
    """C blocks of Q positions in one direction, in at least float32.

    Attributes:
        x: (C, Q, H, P), inputs.
        b: (C, Q, N), input projections.
        c: (C, Q, N), output projections.
        skip: (H, 1), skip connection weights.
        scale: (C, Q, H, 1), scale of the inputs; dt in Mamba-2.
        decay: (C, Q, H, 1), see the top of this file.
        inverse: (C, Q, H, 1), see the top of this file.
        inverse_scaled: (C, Q, H, 1), ``inverse`` times ``scale``.
        through: (C, H, 1), decay across each block.
        k: direction.
        fresh: whether no state enters the slab.
        masks: sequence boundaries; None if there are none within the slab.
    """

    x: Tensor
    b: Tensor
    c: Tensor
    skip: Tensor
    scale: Tensor
    decay: Tensor
    inverse: Tensor
    inverse_scaled: Tensor
    through: Tensor
    k: int
    fresh: bool
    masks: _Masks | None

    def write_outputs(self, state_NHP: Tensor, into: Tensor) -> Tensor:
        """Write y of the slab, (CQ, H, P), to ``into``; return the state that leaves the slab, (N, H, P)."""
        parts = self._compute(state_NHP)
        torch.addcmul(self.x * parts.skip, parts.mixed, self.decay, out=into.unflatten(0, self.x.shape[:2]))
        return parts.states[0 if self.k else -1].clone()

    def write_gradients(
        self, state_NHP: Tensor, d_state_NHP: Tensor, dy: Tensor, into: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Write the gradients of x, scale, log decay, b and c to ``into``.

        Args:
            state_NHP: state that enters the slab.
            d_state_NHP: gradient of the state that leaves the slab.
            dy: (CQ, H, P), gradient of y.
            into: memory for the gradients.

        Returns:
            Gradients of the state that enters the slab, (N, H, P), and of the skip weights, (H,).
        """
        parts, up = self._compute(state_NHP), self.k == 0
        dx, d_scale, d_log_decay, db, dc = (out.unflatten(0, self.x.shape[:2]) for out in into)
        dy = dy.unflatten(0, self.x.shape[:2])
        d_mixed, lifted = dy * self.decay, parts.lifted.flatten(2)
        d_states = pass_states(self._entered(self.c).mT, d_mixed, self._carried(), d_state_NHP, not up)
        d_leaving, d_flat = (d_states[1:] if up else d_states[:-1]), d_mixed.flatten(2)
        d_sum = (d_leaving * self.through[:, None]).flatten(2)
        d_lifted = (parts.scores.mT @ d_flat).baddbmm_(self._left(self.b), d_sum).view_as(self.x)

        d_skip = (dy * self.x).sum(-1)
        d_scores = self._mask(d_flat @ lifted.mT)
        d_scores.diagonal(dim1=1, dim2=2).copy_((d_skip * self.scale[..., 0]).sum(-1))
        dc.copy_(self._entered(d_flat @ self._entering(parts.states).flatten(2).mT).baddbmm_(d_scores, self.b))
        db.copy_(self._left(lifted @ d_sum.mT).baddbmm_(d_scores.mT, self.c))

        d_reach = parts.mixed.mul_(d_mixed).sum(-1)
        d_scaled = torch.mul(d_lifted, self.x, out=d_mixed).sum(-1).mul_(self.inverse[..., 0])
        torch.addcmul(d_scaled, d_skip, parts.diagonal[..., None], out=d_scale)
        d_reach -= d_scaled.mul_(self.scale[..., 0])
        leaving = parts.states[1:] if up else parts.states[:-1]
        d_reach[:, self._last] += (leaving * d_leaving).sum(1).sum(-1)
        d_log_decay.copy_(sum_up_to(d_reach, 1 - self.k))
        torch.addcmul(d_lifted.mul_(self.inverse_scaled), dy, parts.skip, out=dx)
        d_state_NHP = d_states[0 if up else -1]
        return torch.zeros_like(d_state_NHP) if self.fresh else d_state_NHP.clone(), d_skip.sum((0, 1))

    @property
    def _last(self) -> int:
        """Index, within a block, of the position that the scan visits last."""
        return 0 if self.k else -1

    def _entering(self, states: Tensor) -> Tensor:
        return states[1:] if self.k else states[:-1]

    def _compute(self, state_NHP: Tensor) -> _Parts:
        if self.fresh:
            state_NHP = torch.zeros_like(state_NHP)
        lifted = self.x * self.inverse_scaled
        states = pass_states(
            self._left(self.b).mT, lifted, self._carried(), state_NHP, self.k == 0, self.through[:, None]
        )
        scores = self.c @ self.b.mT
        diagonal = scores.diagonal(dim1=1, dim2=2).clone()
        scores, entering = self._mask(scores), self._entering(states).flatten(2)
        mixed = (scores @ lifted.flatten(2)).baddbmm_(self._entered(self.c), entering).view_as(self.x)
        skip = torch.addcmul(self.skip, diagonal[..., None, None], self.scale)
        return _Parts(lifted, states, scores, diagonal, mixed, skip)

    def _mask(self, scores_CQQ: Tensor) -> Tensor:
        """Zero, in place, each score [t, s] unless the scan visits s before t, in the same sequence."""
        scores_CQQ = scores_CQQ.triu_(1) if self.k else scores_CQQ.tril_(-1)
        return scores_CQQ if self.masks is None else scores_CQQ.masked_fill_(self.masks.cross_sequence, 0)

    def _entered(self, value_CQN: Tensor) -> Tensor:
        """Zero the positions that the state before their block does not reach."""
        return value_CQN if self.masks is None else value_CQN * self.masks.enters

    def _left(self, value_CQN: Tensor) -> Tensor:
        """Zero the positions that do not reach the state after their block."""
        return value_CQN if self.masks is None else value_CQN * self.masks.leaves

    def _carried(self) -> Tensor:
        """Decay of the state across each block, (C, H, 1); 0 across a sequence boundary."""
        return self.through if self.masks is None else self.through * self.masks.enters[:, self._last, None]


class _Parts(NamedTuple):
    """Intermediate results of a slab.

    Attributes:
        lifted: (C, Q, H, P), see the top of this file.
        states: (C+1, N, H, P), states before, between and after the blocks.
        scores: (C, Q, Q), masked products of c and b.
        diagonal: (C, Q), products of c and b at the same position.
        mixed: (C, Q, H, P), y / ``decay`` without the term s = t.
        skip: (C, Q, H, 1), skip connection weights and the term s = t.
    """

    lifted: Tensor
    states: Tensor
    scores: Tensor
    diagonal: Tensor
    mixed: Tensor
    skip: Tensor
