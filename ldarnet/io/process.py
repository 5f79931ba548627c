"""Child processes: handle start errors, exit with the parent, look up the parent and the arguments of a process."""

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ldarnet.errors import UserError

_PR_SET_PDEATHSIG = 1


def exit_with_parent(parent: int) -> None:
    """Have the kernel kill this process (SIGKILL) when its parent exits for any reason; Linux only.

    Call this first in a child whose inherited connections and locks must not outlive the parent. The kernel watches the
    thread that forked the child, not the whole process, so fork in the main thread.

    Args:
        parent: process ID of the parent, obtained in the parent before the fork.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:  # the parent exited before the call
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def worker_errors(option: str) -> Iterator[None]:
    """Convert an OSError raised inside the block, which starts worker processes, to a `UserError`.

    Args:
        option: option or configuration key that sets the number of workers.

    Raises:
        UserError: /dev/shm is full or not writable, or a limit on processes or open files is exceeded.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"{option}: no space left on /dev/shm, which worker processes need for their locks; free some space "
                "there, or enlarge it (docker: --shm-size)"
            ) from None
        raise UserError(
            f"{option}: cannot start worker processes ({error.strerror or error}); use fewer workers, or check the "
            "limits of the shell (ulimit -u, ulimit -n) and the permissions of /dev/shm"
        ) from None


def parent_of(pid: int) -> int | None:
    """Process ID of a process's parent; None if there is no such process, or if this is not Linux."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    return None


def command_line(pid: int) -> list[str]:
    """Arguments of a process; empty if there is no such process, or if this is not Linux."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    return []
