"""Choosing between backends."""

import pytest

from ldarnet.errors import UserError
from ldarnet.ops import backends, choose_backends


def test_every_operation_has_a_reference_that_runs_everywhere():
    first = {backend.operation: backend for backend in reversed(backends())}
    assert set(first) == {"ssd", "convolution", "smoothing", "attention"}
    assert all(backend.name == "torch" and not backend.obstacle("anything") for backend in first.values())


def test_auto_on_a_cpu_is_the_reference():
    assert set(choose_backends("cpu").values()) == {"torch"}


@pytest.mark.parametrize(
    ("demand", "message"),
    [
        ({"ssd": "mamba-ssm"}, "ops.ssd=mamba-ssm cannot be met"),
        ({"ssd": "nonesuch"}, "no backend 'nonesuch'; choose auto or one of torch"),
        ({"nonesuch": "torch"}, "no operation 'nonesuch'; the operations are"),
    ],
)
def test_a_demand_that_cannot_be_met_fails_with_the_remedy(demand, message):
    with pytest.raises(UserError, match=message):
        choose_backends("cpu", demand)
