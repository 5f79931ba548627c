"""If a rank dies, fails or hangs, the job ends in bounded time and reports the rank and its location."""

import gc
import json
import os
import resource
import signal
import socket
import time
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import psutil
import pytest

from ldarnet.program import FAILED
from ldarnet.runtime.failure_detector import SHUTDOWN_SECONDS, FailureDetector, JsonLines
from ldarnet.runtime.metrics_file import read_metrics
from ldarnet.runtime.timers import StepTimers
from ldarnet.runtime.watchdog import Watchdog
from tests.support.ranks import WORKERS

STUCK_RANK = WORKERS / "stuck_rank.py"
START_SECONDS = 120
BOUND_SECONDS = 60  # timeout of 12 s, with a margin for loaded machines
READER_SECONDS = 2  # the kernel kills a reader at once; without that, it would check its rank only every 5 s


def connect(detector, **hello):
    connection = socket.create_connection(("127.0.0.1", detector.port), timeout=10)
    connection.sendall(json.dumps(hello).encode() + b"\n")
    return connection


def end_message(connection):
    lines = JsonLines(connection)
    while True:
        for message in lines.read():
            if "end" in message:
                return message


@pytest.fixture
def detector():
    detector = FailureDetector("127.0.0.1", size=2, token="secret", timeout=5)
    yield detector
    detector.close()


def test_unauthenticated_connections_are_ignored(detector):
    first, second = (connect(detector, token="secret", rank=rank) for rank in range(2))
    for text in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"rank": 1, "token": "guess"}\n', b"x" * 200_000):
        intruder = socket.create_connection(("127.0.0.1", detector.port))
        intruder.sendall(text)
        intruder.close()
    second.sendall(b'{"number": 7, "step": 3, "phase": "forward"}\n')
    second.close()
    assert end_message(first) == {"end": "rank 1 died, last seen in phase forward of step 4", "rank": 1}


def test_death_is_reported_before_the_failures_it_causes(detector):
    ranks = [connect(detector, token="secret", rank=rank) for rank in range(3)]
    ranks[0].sendall(b'{"failed": "RuntimeError: Connection closed by peer"}\n')
    time.sleep(0.2)
    ranks[2].close()
    assert end_message(ranks[1])["end"] == "rank 2 died, last seen before training"


def test_hanging_rank_is_reported(detector):
    ranks = [connect(detector, token="secret", rank=rank) for rank in range(3)]
    for rank, number in enumerate((9, 8, 9)):
        ranks[rank].sendall(json.dumps({"number": number, "step": 1, "phase": "data"}).encode() + b"\n")
    begin = time.monotonic()
    assert end_message(ranks[0])["end"].startswith("rank 1 has hung in phase data of step 2 for ")
    assert 4 < time.monotonic() - begin < 15


def test_rank_0_exits_last(detector):
    """A process that exits with unread messages resets its connections; the other ranks would miss the end message."""
    local, other = (connect(detector, token="secret", rank=rank) for rank in range(2))
    local.sendall(b'{"number": 1, "step": 1, "phase": "forward"}\n')
    other.sendall(b'{"failed": "RuntimeError: broken"}\n')
    assert end_message(other)["rank"] == end_message(local)["rank"] == 1
    for connection in (local, other):
        connection.sendall(b'{"number": 2, "step": 1, "phase": "forward"}\n')
    assert not detector.others_ended.wait(1)
    begin = time.monotonic()
    other.close()
    assert detector.others_ended.wait(10)
    assert time.monotonic() - begin < SHUTDOWN_SECONDS - 1


def test_rank_that_disconnects_cleanly_is_not_reported(detector):
    ranks = [connect(detector, token="secret", rank=rank) for rank in range(2)]
    ranks[0].sendall(b'{"bye": true}\n')
    ranks[0].close()
    time.sleep(2)
    detector.close()
    messages = JsonLines(ranks[1]).read()
    assert messages[-1] == {"bye": True}
    assert not any("end" in message for message in messages)


@contextmanager
def open_files(limit, leave=0):
    """Occupy all file descriptors below `limit`; `leave` more can be opened."""
    gc.collect()  # collect files of other tests now, as their finalizers would free descriptors later
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit + leave, hard))
    taken = []
    try:
        while not taken or taken[-1] < limit - 1:
            taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


def test_rank_waits_for_a_free_descriptor(detector):
    with socket.socket() as first:
        first.settimeout(10)
        with open_files(256):
            first.connect(("127.0.0.1", detector.port))
            first.sendall(b'{"token": "secret", "rank": 0}\n')
            time.sleep(1)
        assert first.recv(1)


@pytest.fixture
def watchdog(monkeypatch, tmp_path):
    """Watchdog of a single rank whose exits end only its thread, and the list of its exit statuses."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    ended = []

    def end(status):
        ended.append(status)
        raise SystemExit

    monkeypatch.setattr(os, "_exit", end)
    world = SimpleNamespace(rank=0, size=1, is_main=True, from_main=lambda produce: produce(), together=nullcontext)
    with (tmp_path / "log").open("w") as log:
        yield Watchdog(world, StepTimers(), log, timeout=60), ended


def test_watchdog_works_with_many_open_files(watchdog):
    watchdog, ended = watchdog
    with open_files(1100, leave=100), watchdog:
        assert watchdog._socket.fileno() >= 1100
        time.sleep(0.5)
        assert watchdog._thread.is_alive()
    assert not ended


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("part", ["rank", "detector"])
def test_failed_watchdog_ends_training(watchdog, monkeypatch, capsys, part):
    watchdog, ended = watchdog

    def breaks(*_):
        raise KeyError("a mistake of ours")

    with watchdog:
        if part == "rank":
            monkeypatch.setattr(watchdog, "_send_progress", breaks)
        else:
            while not watchdog._detector._ranks:
                time.sleep(0.01)
            monkeypatch.setattr(watchdog._detector, "_receive", breaks)
        watchdog._thread.join(10)
        assert ended == [FAILED]
    errors = capsys.readouterr().err
    assert (
        f"error: the {'watchdog of rank' if part == 'rank' else 'failure detector on rank'} 0 failed: KeyError("
        in errors
    )


def wait_for_steps(run, steps):
    deadline = time.monotonic() + START_SECONDS
    while len(read_metrics(run / "metrics.jsonl")) < steps and time.monotonic() < deadline:
        time.sleep(0.05)


def running(process):
    """Whether a process is running; zombies do not count."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_killed_rank_ends_the_job(config_file, run_ranks, tmp_path):
    job = run_ranks(2, "--config", config_file, "training.steps=5000", "checkpoint.every=5000", "data.workers=1")
    wait_for_steps(tmp_path / "run", 3)
    (reader,) = psutil.Process(job.processes[0].pid).children()
    job.processes[0].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    while running(reader) and time.monotonic() - begin < BOUND_SECONDS:
        time.sleep(0.05)
    assert time.monotonic() - begin < READER_SECONDS
    (killed, _, _), (status, _, errors) = job.wait()
    assert time.monotonic() - begin < BOUND_SECONDS
    assert (killed, status) == (-signal.SIGKILL, FAILED)
    assert "error: rank 0 died" in errors
    assert "Traceback" not in errors
    log = (tmp_path / "run/logs/rank-00001.log").read_text()
    assert "error: rank 0 died" in log
    assert "Thread" in log


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sleeps", "fails", "fails-later"])
def test_stuck_or_failed_rank_ends_the_job(config_file, run_ranks, tmp_path, how):
    job = run_ranks(2, how, config_file, "training.timeout_minutes=0.2", script=STUCK_RANK)
    wait_for_steps(tmp_path / "run", 3)
    begin = time.monotonic()
    (status, _, errors), (stuck_status, _, stuck_errors) = job.wait()
    assert time.monotonic() - begin < BOUND_SECONDS
    assert (status, stuck_status) == (FAILED, FAILED)
    log = (tmp_path / "run/logs/rank-00001.log").read_text()
    assert f"stuck_in_{'recording' if how == 'fails-later' else 'reading'}" in log
    if how != "sleeps":
        phase = "record" if how == "fails-later" else "data"
        assert f"error: rank 1 failed in phase {phase} of step 4: RuntimeError: broken" in errors
        assert 'raise RuntimeError("broken")' in stuck_errors
    else:
        assert "error: rank 1 has hung in phase data of step 4 for 1" in errors
        assert "_agree" in (tmp_path / "run/logs/rank-00000.log").read_text()


@pytest.mark.slow
def test_rank_that_holds_the_gil_is_ended(config_file, run_ranks, tmp_path):
    ((status, _, _),) = run_ranks(1, "blocks", config_file, "training.timeout_minutes=0.1", script=STUCK_RANK).wait()
    assert status == -signal.SIGALRM
    assert "stuck_in_reading" in (tmp_path / "run/logs/rank-00000.log").read_text()
