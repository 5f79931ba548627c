"""Long windows: linear compute, and a training step on 131,072 bases on a CPU."""

import resource

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.ops import Packing, backends_of

ATTEND = backends_of("attention")["torch"].function


def flops_of_attention(length, window):
    q, k, v = (torch.randn(length, 2, 8, requires_grad=True) for _ in range(3))
    # FlopCounterMode does not count the fused CPU kernel.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        ATTEND(q, k, v, Packing.of_lengths(torch.tensor([length]), length), window).sum().backward()
    return counter.get_total_flops()


def test_local_attention_flops_are_linear_in_the_length():
    once, twice, window = flops_of_attention(8192, 1023), flops_of_attention(16384, 1023), 1023
    assert 1.9 < twice / once < 2.15
    widest = 2 * window + 512  # keys visible to a block of 512 queries
    forward_and_backward = 4 * 2 * 8 * 2 * 3.5  # two matrix products forward, five backward
    assert twice < 16384 * widest * forward_and_backward


@pytest.mark.slow
def test_training_on_131072_bases_allocates_no_quadratic_matrix():
    length = 131072
    model = LDARNetForMaskedLM(
        LDARNetConfig.preset(
            "tiny", attn_cfg={"num_heads": [2, 2], "rotary_emb_dim": [8, 8], "window_size": [1023, -1]}
        )
    )
    ids = torch.randint(0, 4, (1, length), generator=torch.Generator().manual_seed(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model(ids, labels=ids).loss.backward()
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < length**2 / 4
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
