"""Short form of the soak benchmark: ranks are killed at random; the result equals an uninterrupted run."""

import random
import signal

import pytest

import benchmarks.soak
from benchmarks.soak import EXIT_SECONDS, differences, launch, report, soak
from ldarnet.program import FAILED
from ldarnet.runtime.metrics_file import read_metrics
from tests.support.ranks import ROOT

STEPS = 70


@pytest.fixture
def forked_ranks(run_ranks, monkeypatch):
    """Start the ranks of the benchmark from the fork server."""
    jobs = []

    def start(command, ranks, log):
        script, *arguments = command
        jobs.append(run_ranks(ranks, *arguments, script=ROOT / script))
        return jobs[-1].processes

    monkeypatch.setattr(benchmarks.soak, "_start_ranks", start)
    yield
    for job in jobs:
        job.kill()


@pytest.mark.slow
@pytest.mark.usefixtures("forked_ranks")
def test_run_killed_at_random_ends_like_an_uninterrupted_run(config_file, tmp_path):
    arguments = ["--config", str(config_file), f"training.steps={STEPS}", "checkpoint.every=2", "validation.every=40"]
    undisturbed = launch(arguments, tmp_path / "undisturbed", 2, None, random.Random(0))
    assert undisturbed.statuses == [0, 0]
    lives = soak(arguments, tmp_path, ranks=2, between=(1, 3), seed=1, in_training=True, kills=2)
    killed = [life for life in lives if life.killed is not None]
    assert len(killed) == 2
    assert lives[-1].first > 0, "no life resumed from a checkpoint"
    assert max(life.ended for life in killed) < EXIT_SECONDS
    assert {status for life in killed for status in life.statuses} <= {0, FAILED, -signal.SIGKILL}
    assert differences(tmp_path / "undisturbed", tmp_path / "soaked") == []
    assert "equal bit for bit" in report(lives, [], undisturbed, "", "")
    lines = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("undisturbed", "soaked")]
    first, second = ([(line["step"], line["split"], line["mlm_loss"]) for line in of_run] for of_run in lines)
    assert first == second
