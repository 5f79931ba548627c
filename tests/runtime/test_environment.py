"""Environment of a launch: variables of other programs, missing ranks, taken ports, early signals, run folder names."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldarnet.errors import UserError
from ldarnet.runtime import distributed, tracking
from ldarnet.runtime.ports import free_port
from tests.support.ranks import TIMEOUT_SECONDS, Rank

ROOT = Path(__file__).parents[2]
LAUNCH = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": "x"}, "RANK=x is not a number from 0 up"),
        ({"RANK": "-1"}, "RANK=-1 is not a number"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK=(unset) is not a number"),
        ({"WORLD_SIZE": None}, "WORLD_SIZE=(unset) is not a number from 1 up"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 is not a number from 1 up"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2 is not less than WORLD_SIZE=2"),
        ({"MASTER_PORT": None}, "MASTER_PORT=(unset)"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT=http"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not"),
    ],
)
def test_incomplete_variables_of_a_launcher_are_one_line_errors(monkeypatch, changes, message):
    for name, value in (LAUNCH | {"MASTER_PORT": "29500"} | changes).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        distributed.start(1)
    assert message in str(caught.value) and str(caught.value).endswith("unset RANK, LOCAL_RANK and WORLD_SIZE")
    assert caught.value.local


@pytest.fixture
def pretrain(config_file, run_ranks):
    """Start `launch/pretrain.py` with these environment variables; kill it at the end of the test."""
    started = []

    def start(**variables: str) -> Rank:
        started.append(run_ranks(1, "--config", config_file, PYTHONWARNINGS="ignore", **variables))
        return started[-1].processes[0]

    yield start
    for job in started:
        job.kill()


@pytest.mark.slow
def test_missing_ranks_are_reported_and_a_signal_ends_the_wait_with_status_75(pretrain):
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    jobs = [pretrain(**LAUNCH | {"WORLD_SIZE": "4", "MASTER_PORT": str(free_port())}) for _ in numbers]
    deadline = time.monotonic() + TIMEOUT_SECONDS
    for number, process in zip(numbers, jobs, strict=True):
        while not (line := process.errors.read_text().partition("\n"))[1]:
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.05)
        assert "rank 0: waiting for 3 more ranks at 127.0.0.1:" in line[0] and "because WORLD_SIZE=4 is set" in line[0]
        assert "unset RANK, LOCAL_RANK and WORLD_SIZE" in line[0]
        process.send_signal(number)
        process.join(TIMEOUT_SECONDS)
        assert process.exitcode == 75
        assert [line for line in process.errors.read_text().splitlines() if "waiting" not in line] == [
            f"error: stopped by {number.name} outside of training steps; run the same command again"
        ]


@pytest.mark.slow
def test_a_taken_port_is_a_one_line_error(pretrain):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        process = pretrain(**LAUNCH | {"MASTER_PORT": port})
        process.join(TIMEOUT_SECONDS)
    error = process.errors.read_text()
    assert process.exitcode == 1
    assert f"error: MASTER_PORT={port}: another program uses this port" in error and "Traceback" not in error


EARLY = """
import sys, time
from ldarnet.io.early_stop import early_stops
with early_stops():
    print("ready", flush=True)
    {work}
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize(
    "work", ["time.sleep(600)", "import ctypes; ctypes.CDLL(None).pause(); ctypes.CDLL(None).pause()"]
)
def test_early_signals_end_the_process_with_status_75_and_one_line(number, work):
    process = subprocess.Popen(
        [sys.executable, "-c", EARLY.format(work=work)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    error = process.communicate()[1]
    assert (process.returncode, error.count("\n")) == (75, 1)
    assert number.name in error


def test_ignored_and_other_handlers_stay():
    code = """
import os, signal
from ldarnet.io.early_stop import early_stops
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
with early_stops():
    os.kill(os.getpid(), signal.SIGUSR1)
    seen = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    os.kill(os.getpid(), signal.SIGTERM)
    if not (child := os.fork()):
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(3))
        os.kill(os.getpid(), signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
assert seen == [signal.SIGTERM]
os.kill(os.getpid(), signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "KeyboardInterrupt" in done.stderr and done.returncode == -signal.SIGINT


@pytest.mark.parametrize("name", ["plain", "a b", "q?x", "p%20q", "h#1", "ü", "?mode=memory", "%"])
def test_the_metrics_database_is_inside_the_run_folder(tmp_path, monkeypatch, name):
    from sqlalchemy import create_engine, text

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / name).mkdir()
    with create_engine(tracking.tracking_uri(tmp_path / name)).begin() as connection:
        connection.execute(text("create table t (n int)"))
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.db")] == [Path(name) / "mlflow.db"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.slow
def test_mlflow_opens_the_run_of_a_folder_with_special_characters(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "q?x #p%20q ü"
    folder.mkdir()
    client = tracking.connect(tracking.tracking_uri(folder))
    run = client.create_run(tracking.experiment_id(client, "x", folder))
    again = tracking.connect(tracking.tracking_uri(folder))
    assert again.get_run(run.info.run_id).info.run_id == run.info.run_id
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert (folder / "mlflow.db").is_file()
