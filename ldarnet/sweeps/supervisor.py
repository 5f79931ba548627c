"""Keeps one command: ends it when its owner is gone, and says how it ended.

A program of its own, which imports nothing of ours. Its owner holds the other end of its stdin and stdout: when stdin
closes, the owner is gone, whatever ended it. The last line of stdout is the exit status, negative for a signal.

    python supervisor.py LOG COMMAND...
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

GRACE_SECONDS = 60.0
"""For saving after SIGTERM, before SIGKILL."""
POLL_SECONDS = 0.2
LOST = -9


def main() -> None:
    """Run the command in a session of its own."""
    log, *command = sys.argv[1:]
    # Ray kills the children of a worker that ends; a grandchild lives on to end the command properly.
    if os.fork():
        os._exit(0)
    os.setsid()
    with open(log, "ab") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    while child.poll() is None and not _owner_is_gone():
        pass
    end_group(child)
    with contextlib.suppress(BrokenPipeError):
        print(LOST if child.returncode is None else child.returncode, flush=True)


def end_group(child: subprocess.Popen[bytes]) -> None:
    """End a session leader and all that it has left running: ranks outlive a launcher that is killed."""
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
        deadline = time.monotonic() + seconds
        told = False
        while time.monotonic() < deadline:
            child.poll()
            try:
                os.killpg(child.pid, 0 if told else number)
            except ProcessLookupError:
                return
            told = True
            time.sleep(POLL_SECONDS / 4)


def _owner_is_gone() -> bool:
    readable, _, _ = select.select([0], [], [], POLL_SECONDS)
    return bool(readable) and not os.read(0, 1)


if __name__ == "__main__":
    main()
