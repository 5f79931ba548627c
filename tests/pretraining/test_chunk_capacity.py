"""Pretraining with a static number of chunks: when it applies, what happens if chunks do not fit, and resuming."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ldarnet.config import differences, load_config
from ldarnet.pretraining.chunk_capacity import SETTLED_STEPS, ChunkCapacity
from ldarnet.runtime.checkpoint import read_state
from ldarnet.runtime.metrics_file import read_metrics
from tests.support.ranks import LEARNING, WORKERS

STATIC_CHUNKS = WORKERS / "static_chunks.py"


class Capacity:
    """A `ChunkCapacity` with two routers and a target of 4 positions per chunk, and what it did.

    Attributes:
        factors: capacity factor of each step.
        warnings: warnings in order.
    """

    def __init__(self, state=None):
        self.factors, self.warnings = [], []
        model = SimpleNamespace(config=SimpleNamespace(expected_ratio=4.0), set_chunk_capacity=self.factors.append)
        self.capacity = ChunkCapacity(model, 1.25, state, self.warnings.append)

    def run(self, steps, first=0):
        """Run steps; each is the number of chunks of both routers relative to the target, and optionally the loss."""
        for number, (outer, inner, *loss) in enumerate(steps, first):
            self.capacity.begin_step(number)
            bases = 4096.0
            counts = torch.tensor([[outer * bases / 4, bases], [inner * bases / 16, outer * bases / 4]])
            stages = torch.cat([torch.full((2, 3), math.nan), counts], 1)
            self.capacity.end_step(stages.double(), torch.tensor(loss[0] if loss else 1.0, dtype=torch.float64))
        return self


NEAR = (1.2, 0.6)
SETTLE = [NEAR] * (SETTLED_STEPS + 1)
"""The first step whose number of chunks is static comes after these steps."""


@pytest.mark.parametrize("far", [(1.3, 1.0), (1.0, 1.3), (0.4, 0.6), (0.6, 0.4), (1.0, 1.0, math.nan)])
def test_static_after_enough_steps_near_the_target(far):
    run = Capacity().run([*SETTLE, NEAR, NEAR, far, NEAR, NEAR, *SETTLE, NEAR])
    static = [number for number, factor in enumerate(run.factors) if factor is not None]
    first, end = len(SETTLE), len(SETTLE) + 4  # the host reads the step that is far one step late
    assert static == [*range(first, end), *range(end - 1 + SETTLED_STEPS + 1, len(run.factors))]
    (warning,) = run.warnings
    assert warning.startswith(f"step {len(SETTLE) + 3}: ") and "chunk_capacity_factor=1.25" in warning
    assert ("may not fit" in warning) == (len(far) == 3)


def test_nothing_is_static_or_reported_while_the_number_of_chunks_changes():
    run = Capacity().run([NEAR if number % SETTLED_STEPS else (2.0, 1.0) for number in range(4 * SETTLED_STEPS)])
    assert set(run.factors) == {None} and run.warnings == []


@pytest.mark.parametrize("cut", [1, 2, len(SETTLE) - 1, len(SETTLE), len(SETTLE) + 3, len(SETTLE) + 4])
def test_decisions_do_not_change_at_a_resume(cut):
    steps = [*SETTLE, NEAR, NEAR, (1.3, 1.0), NEAR, NEAR, NEAR]
    whole, first = Capacity().run(steps), Capacity().run(steps[:cut])
    state = json.loads(json.dumps(first.capacity.state_dict()))
    second = Capacity(state).run(steps[cut:], first=cut)
    assert first.factors + second.factors == whole.factors
    assert first.warnings + second.warnings == whole.warnings
    assert second.capacity.state_dict() == whole.capacity.state_dict()


def test_factor_may_change_at_a_resume(config_file):
    assert differences(load_config(config_file), load_config(config_file, ["training.chunk_capacity_factor=2"])) == []


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_runs_with_a_static_number_of_chunks(config_file, run_ranks, tmp_path, ranks):
    tree = yaml.safe_load(config_file.read_text())
    tree |= {"model": tree["model"] | LEARNING["model"], "validation": {"windows": 0}}
    config_file.write_text(yaml.safe_dump(tree))
    output = run_ranks(ranks, config_file, tmp_path, script=STATIC_CHUNKS).succeed()

    def static_steps(name):
        (steps,) = {(tmp_path / f"{name}-{rank}.txt").read_text() for rank in range(ranks)}
        return steps.split()

    def tensors(name):
        folder = tmp_path / name / "checkpoints/step-00000010"
        return load_file(folder / "model.safetensors") | load_file(folder / "optimizer.safetensors")

    def losses(name):
        return [line["mlm_loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl")]

    assert static_steps("counted") == []
    assert static_steps("static") == static_steps("resumed") == list("3456789")
    assert losses("static") == pytest.approx(losses("counted"), rel=1e-5)
    assert losses("resumed") == losses("static")
    whole, resumed = tensors("static"), tensors("resumed")
    assert all(resumed[name].equal(whole[name]) for name in whole)
    state = read_state(tmp_path / "static/checkpoints/step-00000010")
    assert state.guard["accepted"] == 10 and state.chunks["settled"] == 2
    assert read_state(tmp_path / "counted/checkpoints/step-00000010").chunks is None

    assert static_steps("overflow") == list("34567")  # the host sees step 6 when step 8 begins
    assert read_state(tmp_path / "overflow/checkpoints/step-00000010").guard["accepted"] == 9
    assert "step 7 skipped: loss nan or gradient norm" in output
    assert "warning: step 7: " in output and "may not fit (training.chunk_capacity_factor=2)" in output
