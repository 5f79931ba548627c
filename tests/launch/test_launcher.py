"""`--gpus` and `--ranks`: device arguments, exit statuses and signals of the launcher that they start."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from ldarnet.cli import launcher
from ldarnet.errors import UserError
from ldarnet.program import FAILED, STOPPED, USER_ERROR

RANK = """
import signal, sys, time
from pathlib import Path
time.sleep(float(sys.argv[2]))
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
Path(sys.argv[1]).touch()
time.sleep(60)
"""


@pytest.fixture
def gpus(monkeypatch):
    return lambda count: monkeypatch.setattr(launcher, "_gpu_count", lambda: count)


def test_cpu_ranks_use_the_loopback_interface(gpus):
    gpus(0)
    environment = {"CUDA_VISIBLE_DEVICES": ""}
    assert launcher._devices(environment, None, 2) == ["--num_accelerators", "2"]
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    assert environment == {"DS_ACCELERATOR": "cpu"} | loopback


def test_gpu_ranks_use_the_visible_gpus(gpus):
    gpus(3)
    assert launcher._devices({}, None, 2) == ["--num_accelerators", "2"]
    environment = {"CUDA_VISIBLE_DEVICES": "4,6,7"}
    assert launcher._devices(environment, 2, None) == ["--include", "localhost:4,6"]
    assert environment == {}
    environment = {"DS_ACCELERATOR": "cpu"}
    assert launcher._devices(environment, None, 8) == ["--num_accelerators", "8"]


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (1, (2, None), "--gpus 2: torch can use only 1 GPU here; use at most 1, or see"),
        (1, (None, 2), "--ranks 2: torch can use only 1 GPU here; use at most 1, or see"),
        (2, (3, None), "--gpus 3: torch can use only 2 GPUs here; use at most 2, or see"),
        (0, (1, None), "--gpus 1: torch can use no GPU here; see `ldarnet doctor`, or use --ranks to run on the CPU"),
    ],
)
def test_more_ranks_than_gpus_are_rejected(gpus, count, options, message):
    gpus(count)
    with pytest.raises(UserError, match=f"^{message}"):
        launcher._devices({}, *options)


def test_only_one_number_of_ranks_is_accepted(gpus):
    gpus(2)
    with pytest.raises(UserError, match="--gpus and --ranks are mutually exclusive"):
        launcher._devices({}, 1, 1)


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("pass", 0),
        (f"import sys; sys.exit({USER_ERROR})", USER_ERROR),
        (f"import sys; sys.exit({FAILED})", FAILED),
        ("import os; os.kill(os.getpid(), 9)", 137),
    ],
)
def test_the_exit_status_is_passed_through(program, status):
    assert launcher._supervise([sys.executable, "-c", program], os.environ) == status


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "status", "error"),
    [
        (f"import sys; print('error: a mistake', file=sys.stderr); sys.exit({USER_ERROR})", USER_ERROR, "a mistake"),
        ("import os; os.kill(os.getpid(), 9)", 256 - signal.SIGKILL, "a rank was killed by signal 9 (Killed); check"),
    ],
)
def test_a_failed_rank_prints_one_line(gpus, monkeypatch, tmp_path, capfd, program, status, error):
    gpus(0)
    (tmp_path / "failing_rank.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert launcher.launch("failing_rank", [], gpus=None, ranks=1) == status
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {error}")


def send_signals(ready: Path, *numbers: int) -> None:
    """Send signals to this process once a file exists and the launcher has installed its handlers."""
    default = signal.getsignal(numbers[0])

    def send() -> None:
        deadline = time.monotonic() + 30
        while not (ready.exists() and signal.getsignal(numbers[0]) != default) and time.monotonic() < deadline:
            time.sleep(0.02)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_lets_ranks_save(tmp_path, number):
    before = signal.getsignal(number)
    if before == signal.SIG_IGN:
        pytest.skip(f"{signal.Signals(number).name} is ignored, as under nohup")
    send_signals(tmp_path / "ready", number)
    command = [sys.executable, "-c", RANK, str(tmp_path / "ready"), "0"]
    assert launcher._supervise(command, os.environ) == STOPPED
    assert signal.getsignal(number) == before


def test_a_signal_reaches_ranks_that_are_still_starting(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "RESEND_SECONDS", 0.1)
    send_signals(tmp_path, signal.SIGTERM)
    command = [sys.executable, "-c", RANK, str(tmp_path / "ready"), "1"]
    assert launcher._supervise(command, os.environ) == STOPPED


def test_a_second_interrupt_kills_the_ranks(tmp_path, capsys):
    program = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
    send_signals(tmp_path / "ready", signal.SIGINT, signal.SIGINT)
    command = [sys.executable, "-c", program, str(tmp_path / "ready")]
    assert launcher._supervise(command, os.environ) == 128 + signal.SIGKILL
    assert "press Ctrl-C again" in capsys.readouterr().err
