"""Handle stop signals outside of training steps: exit at once, with status `STOPPED`.

A rank also sends SIGTERM to itself when the `deepspeed` command that started it on this machine has exited.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ldarnet.io.process import command_line, parent_of
from ldarnet.program import STOPPED, is_rank_0

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
LAUNCHED = "LDARNET_LAUNCHED"
"""Environment variable of ranks that `ldarnet --ranks` or `--gpus` has started; it forwards all signals as SIGUSR1."""
POLL_SECONDS = 1.0
"""Interval at which a rank checks that the `deepspeed` command is still running."""

_DEEPSPEED = ("deepspeed", "ds", "deepspeed.launcher.runner")
_NODE_LAUNCHER = "deepspeed.launcher.launch"
_EXITING = threading.Lock()


def stop_reason(name: str) -> str:
    """Describe a stop signal of this rank, such as `stopped by SIGTERM`; `interrupted` if a launcher forwarded it."""
    forwarded = name == signal.SIGUSR1.name and LAUNCHED in os.environ
    return "interrupted" if forwarded else f"stopped by {name}"


def _exit(number: int, frame: FrameType | None = None) -> None:
    if not _EXITING.acquire(blocking=False):  # the other thread, or an earlier signal, is already at it
        return
    if is_rank_0():  # launchers stop the other ranks with a signal after a rank has reported an error
        reason = stop_reason(signal.Signals(number).name)
        sys.stderr.write(f"error: {reason} outside of training steps; run the same command again\n")
        sys.stderr.flush()
    os._exit(STOPPED)


@contextmanager
def early_stops() -> Iterator[None]:
    """Inside the block, exit with status `STOPPED` on a stop signal, unless the block installs another handler for it.

    Ignored signals stay ignored. Python does not run signal handlers while the main thread is blocked outside of
    Python, for example while it waits for other ranks. Therefore, a helper thread also watches for signals and ends
    the process.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is _exit:
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    read, write = os.pipe()
    os.set_blocking(write, False)
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: _leave(write))
    threading.Thread(target=_watch, args=(read,), name="early-stops", daemon=True).start()
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _exit)
    ended = threading.Event()
    if (command := _deepspeed_command()) is not None:
        threading.Thread(target=_watch_command, args=(command, ended), name="deepspeed-command", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        for number, handler in before.items():
            if signal.getsignal(number) is _exit:
                signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(write)


def _leave(descriptor: int) -> None:
    """Stop a forked child from reporting its signals to the parent."""
    if (current := signal.set_wakeup_fd(-1)) != descriptor:
        signal.set_wakeup_fd(current)


def _watch(descriptor: int) -> None:
    """Read signal numbers from a pipe until it is closed. Exit on a signal whose handler is still `_exit`."""
    while received := os.read(descriptor, 1):
        if signal.getsignal(received[0]) is _exit:
            _exit(received[0])
    os.close(descriptor)


def _deepspeed_command() -> int | None:
    """Process ID of the `deepspeed` command that started this rank; None if it was started in another way."""
    launcher = os.getppid()
    command = parent_of(launcher)
    if command is None or _NODE_LAUNCHER not in command_line(launcher):
        return None
    return command if any(Path(argument).name in _DEEPSPEED for argument in command_line(command)[:3]) else None


def _watch_command(command: int, ended: threading.Event) -> None:
    """Send SIGTERM to this process when the `deepspeed` command has exited.

    In a run on one machine, a signal that ends `deepspeed` does not end its ranks.
    """
    while not ended.wait(POLL_SECONDS):
        if parent_of(os.getppid()) != command:
            os.kill(os.getpid(), signal.SIGTERM)
            return
