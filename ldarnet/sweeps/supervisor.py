"""Run one command, terminate it when the owner process exits, and print its exit status.

This is a separate program that imports nothing from this project. The owner process holds pipes to its stdin and
stdout. Its stdin closes when the owner exits for any reason. The last line of its stdout is the exit status of the
command, negative if a signal killed it.

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
"""Time that the command has to save between SIGTERM and SIGKILL."""
POLL_SECONDS = 0.2
LOST = -9


def main() -> None:
    """Run the command in a new session."""
    log, *command = sys.argv[1:]
    # Ray kills the children of a worker that exits; a grandchild survives and can terminate the command gracefully.
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
    """Terminate a session leader and its remaining children, because ranks outlive a launcher that is killed."""
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
        deadline = time.monotonic() + seconds
        signaled = False
        while time.monotonic() < deadline:
            child.poll()
            try:
                os.killpg(child.pid, 0 if signaled else number)
            except ProcessLookupError:
                return
            signaled = True
            time.sleep(POLL_SECONDS / 4)


def _owner_is_gone() -> bool:
    readable, _, _ = select.select([0], [], [], POLL_SECONDS)
    return bool(readable) and not os.read(0, 1)


if __name__ == "__main__":
    main()
