"""Operations that a model contains."""

import pytest

from ldarnet import LDARNetConfig
from ldarnet.model.kernel_options import unused_operations

SINGLE = {"d_model": [16], "d_intermediate": [32]}
ATTENTION = {"num_heads": [2], "rotary_emb_dim": [8], "window_size": [-1]}


@pytest.mark.parametrize(
    ("changes", "unused"),
    [
        ({}, set()),
        ({"arch_layout": ["M1"], **SINGLE}, {"attention", "rotary", "dechunk", "router"}),
        (
            {"arch_layout": ["t1"], "attn_cfg": ATTENTION, **SINGLE},
            {"ssd", "convolution", "gated_norm", "swiglu", "dechunk", "router"},
        ),
    ],
    ids=["preset", "Mamba-2", "attention"],
)
def test_operations_that_no_layer_contains(changes, unused):
    assert unused_operations(LDARNetConfig.preset("tiny", **changes)) == unused
