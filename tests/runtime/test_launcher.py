"""The `deepspeed` command itself and `ldarnet pretrain --ranks`, with two ranks on the CPU."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ldarnet.program import STOPPED
from ldarnet.runtime.metrics_file import read_metrics
from ldarnet.runtime.ports import free_port

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 300

pytestmark = pytest.mark.slow


@pytest.fixture
def launch():
    """Launch the program in its own process group, as a terminal does; kill it at teardown."""
    started = []

    def start(*arguments, program="deepspeed"):
        command = [str(Path(sys.executable).with_name("deepspeed")), "--quiet", "--num_accelerators", "2"]
        command += ["--master_port", str(free_port()), "launch/pretrain.py"]
        if program == "ldarnet":
            command = [sys.executable, "-m", "ldarnet", "pretrain", "--ranks", "2"]
        command += map(str, arguments)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.SIG_DFL
            ),  # background jobs inherit an ignored SIGINT
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_steps(process, run, steps):
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while len(read_metrics(run / "metrics.jsonl")) < steps:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_exit_status_of_success_and_failure(config_file, launch, tmp_path):
    run = launch("--config", config_file, "training.steps=4")
    output, errors = run.communicate(timeout=TIMEOUT_SECONDS)
    assert run.returncode == 0, output + errors
    assert "2 x CPU" in output
    assert output.count("exported model") == 1
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"config.yaml", "starts.jsonl", "metrics.jsonl", "checkpoints", "export", "figures", "summary.txt"}

    mistake = launch("--config", config_file, "optimizer.leaning_rate=1")
    output, errors = mistake.communicate(timeout=TIMEOUT_SECONDS)
    assert mistake.returncode != 0
    (line,) = [line for line in errors.splitlines() if "error: " in line]
    assert line.startswith("error: ")
    assert "unknown key optimizer.leaning_rate" in line
    assert "Traceback" not in errors


@pytest.mark.parametrize("source", ["one rank", "terminal"])
def test_a_stopped_job_saves_a_checkpoint(config_file, launch, tmp_path, source):
    job = launch("--config", config_file, "training.steps=5000", "checkpoint.every=5000")
    wait_for_steps(job, tmp_path / "run", 3)
    if source == "terminal":
        os.killpg(job.pid, signal.SIGINT)
    else:
        ranks = [child for child in psutil.Process(job.pid).children(recursive=True) if "RANK" in child.environ()]
        ranks[-1].send_signal(signal.SIGUSR1)
    output, _ = job.communicate(timeout=TIMEOUT_SECONDS)
    assert job.returncode == (STOPPED if source == "one rank" else -signal.SIGINT)
    step = read_metrics(tmp_path / "run/metrics.jsonl")[-1]["step"]
    assert f"after step {step} of 5000, saved in" in output
    assert (tmp_path / f"run/checkpoints/step-{step:08d}/manifest.json").is_file()


@pytest.mark.parametrize(
    ("program", "number", "status"),
    [
        ("ldarnet", signal.SIGTERM, STOPPED),
        ("ldarnet", signal.SIGUSR1, STOPPED),
        ("ldarnet", signal.SIGKILL, -signal.SIGKILL),
        ("deepspeed", signal.SIGTERM, -signal.SIGTERM),
        ("deepspeed", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_signal_to_the_command_alone_lets_the_ranks_save(config_file, launch, tmp_path, program, number, status):
    """The `deepspeed` command exits at once with the status of the signal; its ranks notice that."""
    job = launch("--config", config_file, "training.steps=5000", "checkpoint.every=5000", program=program)
    wait_for_steps(job, tmp_path / "run", 3)
    ranks = [child for child in psutil.Process(job.pid).children(recursive=True) if "RANK" in child.environ()]
    assert len(ranks) == 2
    job.send_signal(number)
    output, _ = job.communicate(timeout=TIMEOUT_SECONDS)  # waits until no process writes to stdout any more
    assert job.returncode == status
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)
    step = read_metrics(tmp_path / "run/metrics.jsonl")[-1]["step"]
    assert step < 5000
    assert f"after step {step} of 5000, saved in" in output
    assert (tmp_path / f"run/checkpoints/step-{step:08d}/manifest.json").is_file()
