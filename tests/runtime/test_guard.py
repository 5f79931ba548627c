"""All ranks skip steps with a non-finite loss or gradient or a loss spike; skipped steps change no state."""

import math

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from ldarnet.config.schema import GuardSection
from ldarnet.data import Batch
from ldarnet.runtime.checkpoint import CheckpointStore, read_state, verify
from ldarnet.runtime.guard import Guard, worst_windows
from ldarnet.runtime.metrics_file import read_metrics
from tests.support.ranks import WORKERS

SKIPPING_RANKS = WORKERS / "skipping_ranks.py"
BATCH = Batch(torch.zeros(2, 8, dtype=torch.long), torch.zeros(2, 8, dtype=torch.long), first_position=6, windows=2)


def record_steps(guard, losses, first=1, norm=1.0):
    for step, loss in enumerate(losses, first):
        guard.observe_loss(torch.tensor(loss, dtype=torch.float64))
        guard.record(step, norm, [BATCH], torch.tensor([1.0, 2.0]))


def expected_skips(losses, window, sigma):
    accepted, skipped = [], []
    for step, loss in enumerate(losses, 1):
        last = torch.tensor(accepted[-window:], dtype=torch.float64)
        known = len(accepted) >= window
        if not math.isfinite(loss) or (known and loss > float(last.mean() + sigma * last.std())):
            skipped.append(step)
        else:
            accepted.append(loss)
    return skipped


LOSSES = st.lists(
    st.one_of(st.floats(1.0, 2.0), st.sampled_from([5.0, 50.0, math.nan, math.inf])), min_size=1, max_size=60
)


@settings(deadline=None, max_examples=50)
@given(losses=LOSSES, cut=st.integers(0, 60), sigma=st.sampled_from([1.0, 3.0]))
def test_spikes_are_skipped_before_and_after_a_restart(losses, cut, sigma):
    config = GuardSection(window=8, spike_sigma=sigma)
    guard, resumed = Guard(config, torch.device("cpu")), Guard(config, torch.device("cpu"))
    record_steps(guard, losses[:cut])
    before = guard.take_skipped()
    resumed.load_state_dict(guard.state_dict())
    record_steps(resumed, losses[cut:], first=cut + 1)
    assert [entry.step for entry in before + resumed.take_skipped()] == expected_skips(losses, 8, sigma)
    record_steps(guard, losses[cut:], first=cut + 1)
    assert guard.state_dict() == resumed.state_dict()


def test_skipped_steps_are_described():
    guard = Guard(GuardSection(window=8), torch.device("cpu"))
    record_steps(guard, [1.0, 1.1] * 4 + [9.0, math.nan])
    record_steps(guard, [1.0], first=11, norm=math.inf)
    spike, infinite, gradient = guard.take_skipped()
    assert guard.take_skipped() == []
    assert (spike.step, spike.in_a_row, infinite.in_a_row, gradient.in_a_row) == (9, 1, 2, 3)
    assert spike.reason == "loss 9 is a spike (last accepted steps: 1.05 +- 0.053)"
    assert gradient.reason == "loss 1 or gradient norm inf is not finite"
    assert [(loss.position, loss.loss) for loss in spike.worst] == [(7, 0.25), (6, 0.125)]


def test_losses_are_compared_with_a_full_window_only():
    guard, longer = (
        Guard(GuardSection(window=8), torch.device("cpu")),
        Guard(GuardSection(window=16), torch.device("cpu")),
    )
    record_steps(guard, [1.0, 1.1] * 4)
    longer.load_state_dict(guard.state_dict())
    guard.reset_losses()
    record_steps(guard, [5.0, 5.1] * 4 + [9.0], first=9)
    assert [entry.step for entry in guard.take_skipped()] == [17]
    record_steps(longer, [1.0, 1.1] * 4 + [1.3], first=9)
    assert [entry.step for entry in longer.take_skipped()] == []
    record_steps(longer, [3.0], first=18)
    assert [entry.step for entry in longer.take_skipped()] == [18]
    assert longer.state_dict()["accepted"] == 17


def test_windows_with_nan_loss_come_first():
    scored = torch.tensor([2, 2])
    losses = worst_windows(torch.tensor([1.0, 8.0, math.nan, 2.0]), [(64, 10, scored), (64, 40, scored)])
    assert [loss.position for loss in losses] == [40, 11, 41]


@pytest.mark.slow
def test_all_ranks_skip_the_same_steps_and_state_is_unchanged(config_file, run_ranks, tmp_path):
    tree = yaml.safe_load(config_file.read_text())
    tree["training"]["steps"] = 12
    tree |= {"guard": {"window": 8}, "validation": {"windows": 0}, "checkpoint": {"every": 100, "keep": 2}}
    config_file.write_text(yaml.safe_dump(tree))
    output = run_ranks(2, config_file, tmp_path, script=SKIPPING_RANKS).succeed()
    *trained, diverged, shifted = (tmp_path / "messages-0.txt").read_text().splitlines()
    assert (tmp_path / "messages-1.txt").read_text().splitlines() == [*trained, diverged, shifted]
    assert trained == ["correct"] * 8

    whole, stopped = ((tmp_path / f"{name}/checkpoints/step-00000012") for name in ("whole-1", "stopped"))
    for name in ("model", "optimizer"):
        expected, found = load_file(whole / f"{name}.safetensors"), load_file(stopped / f"{name}.safetensors")
        assert all(found[key].equal(expected[key]) for key in expected)
    assert read_state(whole).guard == read_state(stopped).guard
    assert [line.get("skipped", 0) for line in read_metrics(tmp_path / "stopped/metrics.jsonl")] == [
        *(0, 0),
        *[1] * 7,
        *[2] * 3,
    ]
    assert "warning: step 3 skipped: loss nan or gradient norm" in output
    assert "warning: step 10 skipped: loss" in output
    log = (tmp_path / "whole-1/logs/rank-00001.log").read_text()
    assert "step 10 skipped" in log
    assert "windows with the highest loss: first:" in log

    assert "4 consecutive steps up to step 6 were skipped: loss inf or" in diverged
    assert "with a lower optimizer.lr" in diverged
    latest = CheckpointStore(tmp_path / "diverged", keep=2).latest()
    verify(latest)
    assert read_state(latest).guard["accepted"] == 2
    assert "2 consecutive steps up to step 10 were skipped" in shifted
    assert "guard.spike_sigma" in shifted
