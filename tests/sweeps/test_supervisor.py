"""The keeper of a trial's program: it ends what it keeps, however its owner ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldarnet.sweeps import supervisor

# Writes its own id and that of a child of its own; both wait.
FAMILY = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""


def keep(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-I", supervisor.__file__, str(folder / "log"), sys.executable, "-c", *command]
    return subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def family(path: Path) -> list[int]:
    until = time.monotonic() + 30
    while not (path.exists() and path.read_text().count(" ")):
        assert time.monotonic() < until
        time.sleep(0.05)
    return [int(number) for number in path.read_text().split()]


def alive(number: int) -> bool:
    """Whether it runs; one that nobody has waited for does not."""
    status = Path(f"/proc/{number}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(("code", "status"), [("print('hello')", 0), ("import sys; sys.exit(70)", 70)])
def test_it_says_how_the_command_ended(tmp_path: Path, code: str, status: int):
    kept = keep(tmp_path, code)
    assert int(kept.stdout.read()) == status
    assert (tmp_path / "log").read_text() == ("hello\n" if status == 0 else "")


def test_it_names_the_signal_that_ended_the_command(tmp_path: Path):
    kept = keep(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert int(kept.stdout.read()) == -signal.SIGKILL


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to look at processes")
def test_it_ends_the_command_and_its_children(tmp_path: Path):
    kept = keep(tmp_path, FAMILY, str(tmp_path / "family"))
    members = family(tmp_path / "family")
    assert all(alive(member) for member in members)
    kept.stdin.close()
    assert int(kept.stdout.read()) == -signal.SIGTERM
    assert not any(alive(member) for member in members)


def test_the_command_outlives_the_process_that_ray_would_kill(tmp_path: Path):
    kept = keep(tmp_path, "import time; time.sleep(1); print('saved')")
    assert kept.wait() == 0  # what the owner has started is gone at once
    assert os.read(kept.stdout.fileno(), 64) == b"0\n"
    assert (tmp_path / "log").read_text() == "saved\n"
