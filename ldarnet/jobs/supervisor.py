"""Run a command, print its exit status, and terminate it if the process that started the supervisor exits.

The supervisor is a separate program that imports nothing from this project. The owner is the process that starts the
supervisor, connected to it by pipes. When the owner exits for any reason, the stdin of the supervisor closes. If a
signal kills the command, the printed exit status is negative, for example -15 for SIGTERM.

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
    """Run the command in a new session, and terminate it if the owner exits."""
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
    """Terminate the process group of `child`. Ranks can outlive their launcher."""
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
