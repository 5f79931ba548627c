"""Exit at once, with the status of a stopped run, on a stop signal outside of training steps."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ldarnet.program import STOPPED, is_rank_0

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

_EXITING = threading.Lock()


def _exit(number: int, frame: FrameType | None = None) -> None:
    if not _EXITING.acquire(blocking=False):  # the other thread, or an earlier signal, is already at it
        return
    if is_rank_0():  # launchers stop the other ranks with a signal after a rank has reported an error
        name = signal.Signals(number).name
        sys.stderr.write(f"error: stopped by {name} outside of training steps; run the same command again\n")
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
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _exit:
                signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(write)


def _leave(descriptor: int) -> None:
    """Called in a forked child: stop reporting its signals to the parent."""
    if (current := signal.set_wakeup_fd(-1)) != descriptor:
        signal.set_wakeup_fd(current)


def _watch(descriptor: int) -> None:
    """Read the numbers of received signals from a pipe; exit if `_exit` is still the handler of the signal."""
    while received := os.read(descriptor, 1):
        if signal.getsignal(received[0]) is _exit:
            _exit(received[0])
    os.close(descriptor)
