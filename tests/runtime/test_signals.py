"""After a stop signal to any rank, all ranks finish the step, save and exit; the same command resumes the run."""

import signal
import time

import pytest

from ldarnet.io.early_stop import LAUNCHED, stop_reason
from ldarnet.program import STOPPED
from ldarnet.runtime.metrics_file import read_metrics


def test_signal_to_one_rank_stops_all_ranks(config_file, run_ranks, tmp_path):
    metrics = tmp_path / "run/metrics.jsonl"
    job = run_ranks(2, "--config", config_file, "training.steps=5000", "checkpoint.every=5000")
    deadline = time.monotonic() + 120
    while len(read_metrics(metrics)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    job.processes[1].send_signal(signal.SIGUSR1)
    results = job.wait()
    assert [status for status, _, _ in results] == [STOPPED, STOPPED], results
    output = results[0][1]
    step = read_metrics(metrics)[-1]["step"]
    assert f"stopped by SIGUSR1 after step {step} of 5000" in output
    assert "run the same command again to resume" in output
    assert (tmp_path / f"run/checkpoints/step-{step:08d}/manifest.json").is_file()


@pytest.mark.parametrize(
    ("name", "launched", "reason"),
    [
        ("SIGUSR1", True, "interrupted"),
        ("SIGUSR1", False, "stopped by SIGUSR1"),
        ("SIGTERM", True, "stopped by SIGTERM"),
        ("SIGINT", False, "stopped by SIGINT"),
    ],
)
def test_the_signal_of_the_launcher_is_an_interruption(monkeypatch, name, launched, reason):
    monkeypatch.delenv(LAUNCHED, raising=False)
    if launched:
        monkeypatch.setenv(LAUNCHED, "1")
    assert stop_reason(name) == reason
