"""Restart by the launcher after a rank is killed; the result equals an uninterrupted run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from ldarnet.errors import UserError
from ldarnet.runtime.distributed import start
from ldarnet.runtime.metrics_file import read_metrics

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 300
STEPS = 60


@pytest.fixture
def torchrun():
    """Start the program under torchrun with two ranks; kill it at teardown."""
    started = []

    def start(*arguments):
        command = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", "2"]
        environment = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        started.append(
            subprocess.Popen(
                [*command, "--max-restarts", "3", "launch/pretrain.py", *map(str, arguments)],
                cwd=ROOT,
                env=os.environ | environment | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            for rank in psutil.Process(process.pid).children(recursive=True):
                rank.kill()
            process.kill()
            process.wait()


@pytest.mark.slow
def test_torchrun_restarts_a_killed_job(config_file, run_ranks, torchrun, tmp_path):
    overrides = [f"training.steps={STEPS}", "checkpoint.every=20", "validation.windows=0"]
    run_ranks(2, "--config", config_file, *overrides, f"run.dir={tmp_path}/unbroken").succeed()
    job = torchrun("--config", config_file, *overrides)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while len(read_metrics(tmp_path / "run/metrics.jsonl")) < 25 and time.monotonic() < deadline:
        time.sleep(0.02)
    ranks = psutil.Process(job.pid).children(recursive=True)
    next(rank for rank in ranks if rank.environ().get("RANK") == "1").send_signal(signal.SIGKILL)
    output, errors = job.communicate(timeout=TIMEOUT_SECONDS)
    assert job.returncode == 0, output + errors
    assert "resuming from step 20" in output
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [line["step"] for line in lines if line["split"] == "train"] == list(range(1, STEPS + 1))
    for name in ("model", "optimizer"):
        expected, found = (
            load_file(folder / f"checkpoints/step-{STEPS:08d}/{name}.safetensors")
            for folder in (tmp_path / "unbroken", tmp_path / "run")
        )
        assert all(found[key].equal(expected[key]) for key in expected)


def test_restarts_that_would_hang_are_rejected(monkeypatch):
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_MAX_RESTARTS": "3",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        start(1)
