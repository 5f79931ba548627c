"""Cluster estimate: formulas in known limits, errors and table."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scale import Links, Network, predict, read_plan, report
from ldarnet.errors import UserError
from ldarnet.model import LDARNetConfig
from ldarnet.model.cost import cost

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
H100 = BENCHMARKS / "clusters/h100.yaml"
LINKS = Links(inside=1e11, between=2e11, latency=1e-5, host=1e10, disk=1e9)


def test_single_device_needs_no_communication():
    plan = read_plan(H100, ["activation_checkpointing=[0]", "every=1000000", "device.launch=0"])
    found, spent = predict(plan, 1), cost(LDARNetConfig.preset(plan.model), plan.length, activation_checkpointing=[0])
    assert (found.waiting, found.communication) == (0, 0)
    assert found.compute == pytest.approx(found.bases * spent.hardware_flops / (0.25 * 989e12))
    assert found.mfu == pytest.approx(0.25 * spent.training_flops / spent.hardware_flops, rel=0.01)
    assert found.price == pytest.approx(100e9 / found.bases * found.step / 3600 * 2.5, rel=0.01)


def test_measured_speed_is_used():
    found = predict(read_plan(H100, ["device.bases_per_second=500000"]), 1)
    assert found.compute == pytest.approx(found.bases / 500_000)


def test_all_reduce_time_matches_a_ring():
    assert Network(LINKS, 8, 8).all_reduce(1e9) == pytest.approx(2 * 1e9 * 7 / 8 / 1e11)
    assert Network(LINKS, 1, 8).all_reduce(1e9) == 0
    two_nodes = Network(LINKS, 16, 8).all_reduce(1e9)
    assert two_nodes == pytest.approx(2 * 1e9 * 7 / 8 / 1e11 + 1e9 / 2e11)


@pytest.mark.parametrize(("stage", "all_reduces"), [(0, 1), (1, 1.5), (2, 4.5), (3, 6)])
def test_communication_of_zero_stages(stage, all_reduces):
    network = Network(LINKS, 8, 8)
    small = 10 * 1e-5 * math.log2(8)
    assert network.communication(stage, 1e9, 4) == pytest.approx(all_reduces * network.all_reduce(1e9) + small)


@given(st.sampled_from([1, 2, 8, 64, 256]), st.integers(0, 3))
def test_more_devices_compute_faster_at_a_higher_price(devices, stage):
    plan = read_plan(H100, [f"zero_stage={stage}"])
    few, many = predict(plan, devices), predict(plan, 2 * devices)
    assert many.compute + many.waiting <= (few.compute + few.waiting) * (1 + 1e-9)
    assert many.mfu < few.mfu
    assert many.price > few.price
    assert many.micro_batch * many.accumulation * many.devices == plan.batch


def test_invalid_plans_are_rejected():
    with pytest.raises(UserError, match="not divisible by 3 devices"):
        predict(read_plan(H100, []), 3)
    with pytest.raises(UserError, match=r"h100\.yaml: links\.inside: .*greater than 0"):
        read_plan(H100, ["links.inside=0"])
    with pytest.raises(UserError, match=r"h100\.yaml: gpus: "):
        read_plan(H100, ["gpus=3"])


def test_table_has_a_row_per_number_of_devices():
    plan = read_plan(H100, [])
    _, table, notes = report(plan).split("\n\n")
    assert [row.split(" | ")[0] for row in table.splitlines()[2:]] == [f"| {devices:,}" for devices in plan.devices]
    assert notes.startswith("Estimated, not measured")
