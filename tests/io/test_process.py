import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldarnet.io.process import command_line, exit_with_parent, parent_of

ROOT = Path(__file__).parents[2]
RANK = """
import signal, time
from pathlib import Path
from ldarnet.io import early_stop
early_stop.POLL_SECONDS = 0.05
with early_stop.early_stops():
    print("ready", flush=True)
    time.sleep({seconds})
print("finished", flush=True)
"""
CHILD = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[{skip}:]]))"


def child(pipe, parent):
    exit_with_parent(parent)
    pipe.send(os.getpid())
    time.sleep(60)


def parent(pipe):
    multiprocessing.get_context("fork").Process(target=child, args=(pipe, os.getpid())).start()
    time.sleep(60)


def test_a_child_is_killed_with_its_parent():
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=parent, args=(theirs,))
    process.start()
    assert ours.poll(30)
    orphan = ours.recv()
    process.kill()
    process.join()
    deadline = time.monotonic() + 10
    while is_running(orphan):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"  # its new parent may be slow to reap it
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_parents_and_arguments_of_processes():
    with subprocess.Popen([sys.executable, "-c", "input()", "a b", ""], stdin=subprocess.PIPE) as process:
        assert parent_of(process.pid) == os.getpid()
        assert command_line(process.pid)[1:] == ["-c", "input()", "a b", ""]
        process.kill()
    assert parent_of(process.pid) is None and command_line(process.pid) == []


def launched(folder: Path, command: str, launcher: str, seconds: float) -> subprocess.Popen[str]:
    """Start a rank as `deepspeed` does: COMMAND starts LAUNCHER, which starts the rank."""
    (folder / command).write_text(CHILD.format(skip=1))
    (folder / "launcher").write_text(CHILD.format(skip=2))
    (folder / "rank.py").write_text(RANK.format(seconds=seconds))
    arguments = [str(folder / name) for name in (command, "launcher")] + [launcher, str(folder / "rank.py")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, *arguments], env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_rank_stops_when_the_deepspeed_command_has_exited(tmp_path, number):
    process = launched(tmp_path, "deepspeed", "deepspeed.launcher.launch", 600)
    process.send_signal(number)
    output, errors = process.communicate()
    assert (output, errors) == (
        "",
        "error: stopped by SIGTERM outside of training steps; run the same command again\n",
    )


@pytest.mark.parametrize(
    ("command", "launcher"), [("sshd", "deepspeed.launcher.launch"), ("deepspeed", "another.launcher")]
)
def test_a_rank_that_was_started_in_another_way_outlives_the_command(tmp_path, command, launcher):
    process = launched(tmp_path, command, launcher, 1)
    process.kill()
    assert process.communicate() == ("finished\n", "")


def test_a_rank_finishes_while_the_deepspeed_command_runs(tmp_path):
    process = launched(tmp_path, "deepspeed", "deepspeed.launcher.launch", 1)
    assert process.communicate() == ("finished\n", "")
    assert process.returncode == 0
