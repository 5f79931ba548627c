"""Child processes that do not outlive their parent."""

import ctypes
import os
import signal
import sys

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
