"""Time and peak memory of Python programs."""

import os
import shlex
import subprocess
import sys
import time

from benchmarks.record import ROOT
from ldarnet.errors import UserError

LAUNCHER = """\
import os, subprocess, sys
child = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(usage.ru_maxrss)
sys.exit(abs(os.waitstatus_to_exitcode(status)))
"""
"""Small program that runs Python and prints the peak memory in KiB. On Linux, the peak of a process is at least the
memory of the process that launches it, which may be large if this is the benchmark."""


def timed(*words: object) -> tuple[float, int]:
    """Run Python with these arguments in a new process, in the repository root, and discard its output.

    Returns:
        Elapsed seconds, including the start of Python, and peak resident set size in bytes.

    Raises:
        UserError: the process failed; the message ends with the last line on its stderr.
    """
    start, arguments = time.perf_counter(), list(map(str, words))
    done = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, *arguments],
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        errors="replace",
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"exit status {done.returncode}: python {shlex.join(arguments)}; {reason}")
    return seconds, int(done.stdout) * 1024
