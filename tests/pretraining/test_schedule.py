"""Schedules and parameter groups against published values."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.config.optimization import OptimizerSection
from ldarnet.pretraining.schedule import learning_rate_factor
from ldarnet.runtime.optimizer import build_optimizer, parameter_groups, stage_multipliers

SHARES = {"warmup": 0.1, "decay": 0.2}


def factors(total, shape, **shares):
    return [learning_rate_factor(step, total, decay_shape=shape, **(SHARES | shares)) for step in range(total)]


@pytest.mark.parametrize("shape", ["published", "sqrt"])
def test_factor_warms_up_stays_constant_and_decays(shape):
    values = factors(100, shape)
    assert values[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert values[10:80] == [1.0] * 70
    assert all(after < before for before, after in pairwise(values[80:]))


def test_published_decay_values():
    values = factors(10_000, "published")[8_000:]
    assert values[0] == 1.0
    assert values[1] == pytest.approx(0.715, abs=0.005)
    assert values[9] == pytest.approx(0.335, abs=0.005)
    assert values[-1] == pytest.approx(0.05)
    scale = (1 - 0.05) / (1 - 1 / math.sqrt(2_000))
    assert values[99] == pytest.approx(1 - scale * (1 - 1 / 10))


def test_sqrt_decay_ends_at_zero():
    values = factors(1_000, "sqrt")[800:]
    assert values[49] == pytest.approx(1 - math.sqrt(50 / 200))
    assert values[-1] == 0.0


@settings(deadline=None)
@given(
    total=st.integers(1, 500),
    warmup=st.floats(0, 0.5),
    decay=st.floats(0, 0.5),
    shape=st.sampled_from(["published", "sqrt"]),
)
def test_factor_is_between_zero_and_one(total, warmup, decay, shape):
    assert all(0 <= value <= 1 for value in factors(total, shape, warmup=warmup, decay=decay))


def test_stage_multipliers():
    assert stage_multipliers("published", [512, 768], 4.0) == pytest.approx([3.0, 1.0])
    assert stage_multipliers("hnet", [512, 768], 4.0) == pytest.approx([math.sqrt(6), 1.0])
    assert stage_multipliers("none", [512, 768], 4.0) == [1.0, 1.0]
    assert stage_multipliers("published", [4, 8, 16], 4.0) == pytest.approx([16.0, 4.0, 1.0])
    assert stage_multipliers("hnet", [4, 8, 16], 4.0) == pytest.approx([8.0, math.sqrt(8), 1.0])


def test_groups_by_stage_and_decay():
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))
    config = OptimizerSection(lr=1e-3, weight_decay=0.1)
    groups = parameter_groups(model, config)
    assert [group["name"] for group in groups] == ["stage0/decay", "stage0/no_decay", "stage1/decay", "stage1/no_decay"]
    assert [group["lr"] for group in groups] == pytest.approx([3e-3, 3e-3, 1e-3, 1e-3])
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1, 0.0]
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len({id(parameter) for parameter in grouped}) == len(list(model.parameters()))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    undecayed = {
        names[id(parameter)] for group in groups if group["weight_decay"] == 0 for parameter in group["params"]
    }
    assert undecayed == model.no_weight_decay()
    assert build_optimizer(groups, config).defaults["betas"] == (0.9, 0.95)
