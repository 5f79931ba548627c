"""States of a scan, passed from block to block.

Shapes: C blocks of Q positions, H heads, P head dimension, N state width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

GROUP = 16
"""Blocks per group when states are passed between blocks on a GPU."""


def sum_up_to(value_CQH: Tensor, k: int) -> Tensor:
    """Cumulative sum over the positions of each block, in the order of direction ``k``."""
    return value_CQH.flip(1).cumsum(1).flip(1) if k else value_CQH.cumsum(1)


def pass_states(
    left_CNQ: Tensor,
    right_CQHP: Tensor,
    through_CH1: Tensor,
    start_NHP: Tensor,
    up: bool,
    scale_C1H1: Tensor | None = None,
) -> Tensor:
    """Pass a state through C blocks; return the states before, between and after them, (C+1, N, H, P).

    If ``up``: s_0 = start and s_{i+1} = through_i s_i + scale_i left_i right_i. Otherwise: s_C = start and
    s_i = through_i s_{i+1} + scale_i left_i right_i. The default scale is 1.
    """
    states = start_NHP.new_empty(len(left_CNQ) + 1, *start_NHP.shape)
    states[0 if up else -1] = start_NHP
    after = states[1:] if up else states[:-1]
    torch.bmm(left_CNQ, right_CQHP.flatten(2), out=after.flatten(2))
    if scale_C1H1 is not None:
        after.mul_(scale_C1H1)
    accumulate(after, through_CH1[:, None], start_NHP, up)
    return states


def accumulate(states_CNHP: Tensor, through_C1H1: Tensor, start_NHP: Tensor, up: bool) -> None:
    """Add to each block's state, in place, the decayed state of the block before it (after it if not ``up``).

    On a CPU, the blocks are visited one by one. On a GPU, they are divided into groups, and each kernel launch visits
    one block of every group. Then, this function is applied to the last states of the groups. The number of launches
    grows with the logarithm of C.
    """
    C = len(states_CNHP)
    if C <= GROUP or _visits_blocks_in_turn(states_CNHP.device):
        before, each, through = start_NHP, states_CNHP.unbind(0), through_C1H1.unbind(0)
        for i in range(C) if up else reversed(range(C)):
            before = each[i].addcmul_(before, through[i])
        return
    whole = C - C % GROUP
    grouped, rest = (slice(whole), slice(whole, C)) if up else (slice(C - whole, C), slice(C - whole))
    states, through = (value[grouped].unflatten(0, (-1, GROUP)) for value in (states_CNHP, through_C1H1))
    order = range(GROUP) if up else range(GROUP - 1, -1, -1)
    for before, i in pairwise(order):
        states[:, i].addcmul_(states[:, before], through[:, i])
    reach = through.cumprod(1) if up else through.flip(1).cumprod(1).flip(1)
    last = states[:, order[-1]]
    accumulate(last, reach[:, order[-1]], start_NHP, up)
    entering = torch.cat([start_NHP[None], last[:-1]] if up else [last[1:], start_NHP[None]])
    not_last = slice(GROUP - 1) if up else slice(1, GROUP)
    states[:, not_last].addcmul_(entering[:, None], reach[:, not_last])
    accumulate(states_CNHP[rest], through_C1H1[rest], last[-1 if up else 0], up)


def _visits_blocks_in_turn(device: torch.device) -> bool:
    return device.type == "cpu"
