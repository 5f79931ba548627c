"""The state-space scan of Mamba-2 (SSD), in one or both directions at once.

Shapes: T packed positions, K directions (0 left to right, 1 right to left), H heads, P head dimension, N state
width. A row consists of B blocks of Q positions, and is processed in slabs of C blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ldarnet.ops.columns import GradientBuffer, gradient_memory
from ldarnet.ops.packing import Packing
from ldarnet.ops.precision import at_least_fp32, full_precision
from ldarnet.ops.registry import REFERENCE, register
from ldarnet.ops.scan_factored import FactoredRow, FactoredSlab
from ldarnet.ops.scan_states import pass_states, sum_up_to
from ldarnet.ops.slabs import slabs

BLOCK = 64

LAST = (-1, 0)
"""Index, within a block, of the position that each direction visits last."""

MIN_LOG_DECAY = -60.0


def blocked_scan(
    x_TKHP: Tensor, log_decay_TKH: Tensor, b_TKN: Tensor, c_TKN: Tensor, packing: Packing, block: int
) -> Tensor:
    """Compute y_t = c_t . s_t with s_t = exp(log_decay_t) s_{t-1} + b_t x_t^T, in blocks of ``block`` positions.

    Direction 1, which is optional, uses t+1 instead of t-1. The state is zero before the first position of every
    sequence.

    Returns:
        y, (T, K, H, P), in the dtype of x. The computation is in at least float32.
    """
    scale_TKH, skip_KH = torch.ones_like(log_decay_TKH), torch.zeros_like(log_decay_TKH[0])
    return _ScanFunction.apply(x_TKHP, scale_TKH, log_decay_TKH, b_TKN, c_TKN, skip_KH, packing, block, {})


class ScanGradients(NamedTuple):
    """Memory for the gradients of a scan; allocated where None."""

    x: GradientBuffer | None = None
    dt: GradientBuffer | None = None
    b: GradientBuffer | None = None
    c: GradientBuffer | None = None


ALLOCATED = ScanGradients()


@register("ssd", REFERENCE)
def ssd(
    x_TKHP: Tensor,
    dt_TH: Tensor,
    dt_bias_KH: Tensor,
    a_log_KH: Tensor,
    b_TKN: Tensor,
    c_TKN: Tensor,
    d_KH: Tensor,
    packing: Packing,
    chunk_size: int,
    gradients: ScanGradients = ALLOCATED,
) -> Tensor:
    """Mamba-2's scan: s_t = exp(r_t a) s_{t-1} + r_t b_t x_t^T, y_t = c_t . s_t + d x_t, in each direction.

    The step size is r_t = softplus(dt_t + dt_bias), the decay rate a = -exp(a_log).

    Args:
        x_TKHP: inputs.
        dt_TH: step sizes before bias and softplus, shared by the directions.
        dt_bias_KH: biases of the step sizes.
        a_log_KH: logarithms of the negated decay rates.
        b_TKN: input projections, shared by the heads.
        c_TKN: output projections, shared by the heads.
        d_KH: skip connection weights.
        packing: sequence boundaries.
        chunk_size: block size of mamba-ssm's kernels; unused in this reference. The result does not depend on it.
        gradients: memory for the gradients of x, dt, b and c.

    Returns:
        y, (T, K, H, P), in the dtype of x. The computation is in at least float32.
    """
    del chunk_size
    with full_precision(x_TKHP.device):
        dt_TKH = F.softplus(at_least_fp32(dt_TH)[:, None] + at_least_fp32(dt_bias_KH))
        log_decay_TKH = dt_TKH * -at_least_fp32(a_log_KH).exp()
    memory = {0: gradients.x, 3: gradients.b, 4: gradients.c}
    return _ScanFunction.apply(x_TKHP, dt_TKH, log_decay_TKH, b_TKN, c_TKN, d_KH, packing, BLOCK, memory)


class _ScanFunction(torch.autograd.Function):
    """Autograd function for y_t = c_t . s_t + skip x_t with s_t = exp(log_decay_t) s_{t-1} + b_t (scale_t x_t)^T.

    Within a block, the sum over earlier positions is a masked matrix product; states are passed from block to
    block (Dao and Gu 2024, arXiv 2405.21060, section 6). The forward pass saves the arguments and the state that
    enters each slab; the backward pass recomputes everything else slab by slab.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, ctx.packing, ctx.block, ctx.memory = arguments
        x_TKHP, b_TKN = tensors[0], tensors[3]
        y_TKHP, entering = x_TKHP.new_empty(x_TKHP.shape), []
        with full_precision(x_TKHP.device):
            row = _Row(tensors, ctx.packing, ctx.block)
            for k in range(x_TKHP.shape[1]):
                state_NHP = at_least_fp32(x_TKHP.new_zeros(b_TKN.shape[-1], *x_TKHP.shape[2:]))
                for rows in row.slabs(k):
                    entering.append(state_NHP)
                    state_NHP = row.slab(rows, k).write_outputs(state_NHP, y_TKHP[rows, k])
        ctx.save_for_backward(*tensors, *entering)
        return y_TKHP

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TKHP: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        saved = ctx.saved_tensors
        tensors, entering = saved[:6], list(saved[6:])
        gradients = [
            entering[0].new_empty(dy_TKHP.shape[1], *tensor[:, 0].shape)
            if tensor.dtype != entering[0].dtype or i not in ctx.memory
            else gradient_memory(tensor, ctx.memory[i]).transpose(0, 1)
            for i, tensor in enumerate(tensors[:5])
        ]
        d_skip_KH = entering[0].new_zeros(tensors[5].shape)
        with full_precision(dy_TKHP.device):
            row = _Row(tensors, ctx.packing, ctx.block)
            for k in reversed(range(dy_TKHP.shape[1])):
                d_state_NHP = torch.zeros_like(entering[0])
                for rows in reversed(row.slabs(k)):
                    dy, into = at_least_fp32(dy_TKHP[rows, k]), [gradient[k, rows] for gradient in gradients]
                    d_state_NHP, d_skip_H = row.slab(rows, k).write_gradients(entering.pop(), d_state_NHP, dy, into)
                    d_skip_KH[k] += d_skip_H
        gradients = [*(gradient.transpose(0, 1) for gradient in gradients), d_skip_KH]
        gradients = [gradient.to(tensor.dtype) for gradient, tensor in zip(gradients, tensors, strict=True)]
        return *gradients, None, None, None


class _Slab(NamedTuple):
    """C blocks of Q positions in one direction, in at least float32.

    Attributes:
        x: (C, Q, H, P), inputs.
        scaled: (C, Q, H, P), inputs times their scale.
        scale: (C, Q, H, 1), scale of the inputs; dt in Mamba-2.
        b: (C, Q, N), input projections.
        c: (C, Q, N), output projections.
        skip: (H, 1), skip connection weights.
        within: (C, H, Q, Q), decay from position s to position t, stored at [t, s].
        cross_sequence: (C, Q, Q), whether t and s belong to different sequences; None if the slab is known to contain
            only one sequence.
        enter: (C, Q, H, 1), decay from the end of the previous block to each position; 0 across a sequence boundary.
        leave: (C, Q, H, 1), decay from each position to position ``last``; 0 across a sequence boundary.
        last: index, within a block, of the position that the scan visits last.
    """

    x: Tensor
    scaled: Tensor
    scale: Tensor
    b: Tensor
    c: Tensor
    skip: Tensor
    within: Tensor
    cross_sequence: Tensor | None
    enter: Tensor
    leave: Tensor
    last: int

    def mask_scores(self, scores_CQQ: Tensor) -> Tensor:
        """Zero, in place, each score [t, s] where the scan visits s after t, or s and t are in different sequences."""
        scores_CQQ = scores_CQQ.triu_() if self.last == 0 else scores_CQQ.tril_()
        return scores_CQQ if self.cross_sequence is None else scores_CQQ.masked_fill_(self.cross_sequence, 0)

    def _states(self, state_NHP: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states that enter each block, (C, N, HP), and the state that leaves the slab, (N, H, P)."""
        up = self.last != 0
        states = pass_states(self.b.mT, self.scaled * self.leave, self.enter[:, self.last], state_NHP, up)
        return (states[:-1] if up else states[1:]).flatten(2), states[self.last].clone()

    def write_outputs(self, state_NHP: Tensor, into: Tensor) -> Tensor:
        """Write y of the slab, (CQ, H, P), to ``into``; return the state that leaves the slab, (N, H, P)."""
        entering, after_NHP = self._states(state_NHP)
        mixed = self.within.mul_(self.mask_scores(self.c @ self.b.mT)[:, None])
        y = (self.c @ entering).view_as(self.x).mul_(self.enter)
        y += (mixed @ self.scaled.transpose(1, 2)).transpose(1, 2)
        torch.addcmul(y, self.x, self.skip, out=into.unflatten(0, self.x.shape[:2]))
        return after_NHP

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
        dx, d_scale, d_log_decay, db, dc = (out.unflatten(0, self.x.shape[:2]) for out in into)
        dy = dy.unflatten(0, self.x.shape[:2])
        last, entering = self.last, self._states(state_NHP)[0]
        entered, left = dy * self.enter, self.scaled * self.leave
        d_states = pass_states(self.c.mT, entered, self.enter[:, last], d_state_NHP, up=last == 0)
        d_leaving = (d_states[:-1] if last == 0 else d_states[1:]).flatten(2)

        heads, d_heads = (value.transpose(1, 2).contiguous() for value in (self.scaled, dy))
        scores = self.mask_scores(self.c @ self.b.mT)[:, None]
        d_within = (d_heads @ heads.mT).mul_(self.within)
        d_scores = self.mask_scores(d_within.sum(1))
        torch.baddbmm(d_scores @ self.b, entered.flatten(2), entering.mT, out=dc)
        torch.baddbmm(d_scores.mT @ self.c, left.flatten(2), d_leaving.mT, out=db)
        d_left = (self.b @ d_leaving).view_as(self.x)
        d_scaled = (d_left * self.leave).add_(((self.within * scores).mT @ d_heads).transpose(1, 2))
        torch.sum(d_scaled * self.x, -1, out=d_scale)
        torch.addcmul(d_scaled.mul_(self.scale), dy, self.skip, out=dx)

        d_enter = (entered * (self.c @ entering).view_as(self.x)).sum(-1)
        d_leave = (left * d_left).sum(-1)
        d_through = (entering * d_leaving).sum(1).view(-1, *state_NHP.shape[1:]).sum(-1) * self.enter[:, last, :, 0]
        d_log_decay.copy_(_d_log_decay(d_within.mul_(scores), d_enter, d_leave, d_through, last))
        return d_states[0 if last else -1].clone(), (dy * self.x).sum((0, 1, 3))


class _Decays(NamedTuple):
    """Cumulative log decays, (B, H, Q), and decays of states, (B, Q, H), of all blocks of a row in one direction."""

    reach: Tensor
    enter: Tensor
    leave: Tensor


class _Row:
    """Arguments of a scan, split into slabs."""

    def __init__(self, tensors: Sequence[Tensor], packing: Packing, block: int) -> None:
        self.tensors, self.packing, self.block = tensors, packing, block
        self.factored = FactoredRow(tensors, packing, block) if packing.starts.is_cpu else None

    @cached_property
    def sequence(self) -> Tensor:
        """Sequence of each position, (B, Q); -1 after the end of the row."""
        return F.pad(self.packing.sequence, (0, -self.packing.total % self.block), value=-1).view(-1, self.block)

    @cached_property
    def decays(self) -> list[_Decays]:
        """Decays of all blocks, in each direction."""
        padding, sequence = (0, 0, 0, 0, 0, -self.packing.total % self.block), self.sequence
        log_decay_BQKH = F.pad(at_least_fp32(self.tensors[2]), padding).unflatten(0, (-1, self.block))
        before = F.pad(sequence[:-1, -1], (1, 0), value=-1), F.pad(sequence[1:, 0], (0, 1), value=-1)
        decays = []
        for k, last in enumerate(LAST[: log_decay_BQKH.shape[2]]):
            reach = sum_up_to(log_decay_BQKH[:, :, k], k)
            enters, leaves = sequence == before[k][:, None], sequence == sequence[:, last, None]
            enter, leave = _decay(reach) * enters[..., None], _decay(reach[:, last, None] - reach) * leaves[..., None]
            decays.append(_Decays(reach.transpose(1, 2).contiguous(), enter, leave))
        return decays

    def slabs(self, k: int) -> list[slice]:
        """Positions of each slab, in the order of direction ``k``; an incomplete last block is a slab of its own."""
        T, _, H, P = self.tensors[0].shape
        whole = T - T % self.block
        rows = slabs(self.tensors[0].device, whole, H * P, self.block) + ([slice(whole, T)] if whole < T else [])
        return rows if k == 0 else rows[::-1]

    def slab(self, rows: slice, k: int) -> _Slab | FactoredSlab:
        """Collect the tensors of a slab in direction ``k``."""
        factored = None if self.factored is None else self.factored.slab(rows, k)
        return self._slab(rows, k) if factored is None else factored

    def _slab(self, rows: slice, k: int) -> _Slab:
        size = min(self.block, rows.stop - rows.start)
        tensors = (self.tensors[i][rows, k].unflatten(0, (-1, size)) for i in (0, 1, 3, 4))
        x, scale, b, c = map(at_least_fp32, tensors)
        scale = scale[..., None]
        blocks, inside = slice(rows.start // self.block, -(-rows.stop // self.block)), slice(0, x.shape[1])
        decays = self.decays[k]
        reach = decays.reach[blocks, :, inside]
        sequence = self.sequence[blocks, inside]
        single_sequence = sequence.is_cpu and bool(sequence[0, 0] == sequence[-1, -1])
        return _Slab(
            x=x,
            scaled=x * scale,
            scale=scale,
            b=b,
            c=c,
            skip=at_least_fp32(self.tensors[5][k])[:, None],
            within=_decay(reach[..., :, None] - reach[..., None, :]),
            cross_sequence=None if single_sequence else sequence[:, :, None] != sequence[:, None, :],
            enter=decays.enter[blocks, inside, :, None],
            leave=decays.leave[blocks, inside, :, None],
            last=LAST[k],
        )


def _decay(log_decay: Tensor) -> Tensor:
    """Clamp the log decay to [-60, 0] and compute its exponential.

    Decays below exp(-60) would not change any sum, but their products would be denormal numbers, which are slow.
    """
    return log_decay.clamp(MIN_LOG_DECAY, 0).exp_()


def _d_log_decay(within_CHQQ: Tensor, enter_CQH: Tensor, leave_CQH: Tensor, through_CH: Tensor, last: int) -> Tensor:
    """Gradient of the log decay at each position, (C, Q, H).

    The first three arguments are gradients with respect to the logarithms of the decays of the same names in `_Slab`.
    ``through_CH`` is the gradient with respect to the log decay across a whole block. The terms on the diagonal of
    ``within_CHQQ`` cancel; they are zeroed to avoid rounding errors in the other terms.
    """
    within_CHQQ.diagonal(dim1=-2, dim2=-1).zero_()
    leave_CQH[:, last] = 0
    reach = (within_CHQQ.sum(-1) - within_CHQQ.sum(-2)).transpose(1, 2) + enter_CQH - leave_CQH
    reach[:, last] += leave_CQH.sum(1) + through_CH
    return sum_up_to(reach, k=-last)
