"""The supervisor ends its command when its owner exits for any reason."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldarnet.jobs import supervisor

# Start a child and write both process IDs to a file; both processes wait.
FAMILY = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""


def supervise(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-I", supervisor.__file__, str(folder / "log"), sys.executable, "-c", *command]
    return subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def family(path: Path) -> list[int]:
    until = time.monotonic() + 30
    while not (path.exists() and path.read_text().count(" ")):
        assert time.monotonic() < until
        time.sleep(0.05)
    return [int(number) for number in path.read_text().split()]


def alive(number: int) -> bool:
    """Whether a process is running; zombies are not."""
    status = Path(f"/proc/{number}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(("code", "status"), [("print('hello')", 0), ("import sys; sys.exit(70)", 70)])
def test_exit_status_is_reported(tmp_path: Path, code: str, status: int):
    process = supervise(tmp_path, code)
    assert int(process.stdout.read()) == status
    assert (tmp_path / "log").read_text() == ("hello\n" if status == 0 else "")


def test_signal_is_reported(tmp_path: Path):
    process = supervise(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert int(process.stdout.read()) == -signal.SIGKILL


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_command_and_children_end_with_the_owner(tmp_path: Path):
    process = supervise(tmp_path, FAMILY, str(tmp_path / "family"))
    members = family(tmp_path / "family")
    assert all(alive(member) for member in members)
    process.stdin.close()
    assert int(process.stdout.read()) == -signal.SIGTERM
    assert not any(alive(member) for member in members)


def test_command_outlives_the_process_killed_by_ray(tmp_path: Path):
    process = supervise(tmp_path, "import time; time.sleep(1); print('saved')")
    assert process.wait() == 0  # the process that the owner started exits immediately
    assert os.read(process.stdout.fileno(), 64) == b"0\n"
    assert (tmp_path / "log").read_text() == "saved\n"
