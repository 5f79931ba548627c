"""The state-space scan of Mamba-2 (SSD), in both reading directions at once.

Shapes: T packed positions, K = 2 directions (0 reads left to right, 1 right to left), H heads, P head width, N state
width, C blocks of Q positions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ldarnet.ops.packing import Packing
from ldarnet.ops.precision import at_least_fp32, full_precision
from ldarnet.ops.registry import REFERENCE, register

BLOCK = 64


def blocked_scan(
    x_TKHP: Tensor, log_decay_TKH: Tensor, b_TKN: Tensor, c_TKN: Tensor, packing: Packing, block: int
) -> Tensor:
    """Compute y_t = c_t . s_t with s_t = exp(log_decay_t) s_{t-1} + b_t x_t^T, block by block.

    Direction 1 takes t+1 for t-1. The state starts from zero at the border of every sequence. Within a block the
    sum over earlier positions is a masked product of matrices; states pass between blocks one after the other
    (Dao and Gu 2024, arXiv 2405.21060, section 6).

    Returns:
        (T, K, H, P), in the dtype of x.
    """
    T, K, H, P = x_TKHP.shape
    N = b_TKN.shape[-1]
    fill = -T % block
    x = F.pad(x_TKHP, (0, 0, 0, 0, 0, 0, 0, fill)).view(-1, block, K, H, P).permute(0, 2, 3, 1, 4)
    b = F.pad(b_TKN, (0, 0, 0, 0, 0, fill)).view(-1, block, K, N).transpose(1, 2)
    c = F.pad(c_TKN, (0, 0, 0, 0, 0, fill)).view(-1, block, K, N).transpose(1, 2)
    log_decay = F.pad(log_decay_TKH, (0, 0, 0, 0, 0, fill)).view(-1, block, K, H).permute(0, 2, 3, 1)
    sequence_CQ = F.pad(packing.sequence, (0, fill), value=-1).view(-1, block)
    edge = [block - 1, 0]  # the position a direction leaves a block by

    forward, backward = log_decay.unbind(1)
    reach_CKHQ = torch.stack([forward.cumsum(-1), backward.flip(-1).cumsum(-1).flip(-1)], 1)
    seen = torch.ones(block, block, dtype=torch.bool, device=x.device)
    same_CQQ = sequence_CQ[:, :, None] == sequence_CQ[:, None, :]
    mask_CKQQ = same_CQQ[:, None] & torch.stack([seen.tril(), seen.triu()])
    decay = (reach_CKHQ[..., :, None] - reach_CKHQ[..., None, :]).masked_fill(~mask_CKQQ[:, :, None], -torch.inf).exp()
    y = ((c @ b.transpose(-1, -2))[:, :, None] * decay) @ x

    if len(x) > 1:
        edge_sequence_CK = sequence_CQ[:, edge]
        reach_edge = torch.stack([reach_CKHQ[:, k, :, edge[k]] for k in range(K)], 1)
        leaves = (edge_sequence_CK[:, :, None] == sequence_CQ[:, None])[:, :, None]
        to_edge = torch.where(leaves, (reach_edge[..., None] - reach_CKHQ).exp(), 0.0)
        states = b.transpose(-1, -2)[:, :, None] @ (x * to_edge[..., None])
        entering = _pass_states(states, reach_edge.exp(), edge_sequence_CK)
        enters = _neighbour(edge_sequence_CK, -1)[:, :, None] == sequence_CQ[:, None]
        from_edge = torch.where(enters[:, :, None], reach_CKHQ.exp(), 0.0)
        y = y + (c[:, :, None] @ entering) * from_edge[..., None]
    return y.permute(0, 3, 1, 2, 4).reshape(-1, K, H, P)[:T]


def _neighbour(value_CK: Tensor, border: int) -> Tensor:
    """The value of the block read before: c-1 in direction 0, c+1 in direction 1."""
    return torch.stack([F.pad(value_CK[:-1, 0], (1, 0), value=border), F.pad(value_CK[1:, 1], (0, 1), value=border)], 1)


def _pass_states(states_CKHNP: Tensor, decay_CKH: Tensor, edge_sequence_CK: Tensor) -> Tensor:
    """The state that enters every block, (C, K, H, N, P), from what each block adds and how far it lets pass."""
    passes = edge_sequence_CK == _neighbour(edge_sequence_CK, -1)
    factors = torch.where(passes[..., None], decay_CKH, 0.0)[..., None, None].unbind(0)
    added = states_CKHNP.unbind(0)
    blocks = len(added)
    zero = torch.zeros_like(added[0][0])
    entering: list[list[Tensor]] = [[zero] * blocks, [zero] * blocks]
    for k, order in enumerate((range(blocks - 1), range(blocks - 1, 0, -1))):
        state = zero
        for i in order:
            state = factors[i][k] * state + added[i][k]
            entering[k][i + 1 - 2 * k] = state
    return torch.stack([torch.stack(direction) for direction in entering], 1)


@register("ssd", REFERENCE)
def ssd(
    x_TKHP: Tensor,
    dt_TKH: Tensor,
    a_KH: Tensor,
    b_TKN: Tensor,
    c_TKN: Tensor,
    d_KH: Tensor,
    packing: Packing,
    chunk_size: int,
) -> Tensor:
    """Mamba-2's scan: s_t = exp(dt_t a) s_{t-1} + dt_t b_t x_t^T, y_t = c_t . s_t + d x_t, per direction.

    Args:
        x_TKHP: inputs of every direction and head.
        dt_TKH: positive step sizes.
        a_KH: negative decay rates.
        b_TKN: input projections, shared by the heads.
        c_TKN: output projections, shared by the heads.
        d_KH: weights of the skip connection.
        packing: borders of the sequences.
        chunk_size: positions a Triton kernel takes at a time; this reference has its own block size, and the
            function computed does not depend on either.

    Returns:
        y, (T, K, H, P), in the dtype of x; computed in at least float32.
    """
    del chunk_size
    with full_precision(x_TKHP.device):
        x, dt, b, c = map(at_least_fp32, (x_TKHP, dt_TKH, b_TKN, c_TKN))
        y = blocked_scan(x * dt[..., None], dt * a_KH, b, c, packing, min(BLOCK, packing.total))
        return (y + x * d_KH[..., None]).to(x_TKHP.dtype)
