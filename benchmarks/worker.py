"""Worker process that isolates failures, hangs and excessive memory use of measurements."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import patch

from ldarnet.io.process import exit_with_parent

MEMORY_FRACTION = 0.85
MAX_MESSAGE_CHARS = 200
KILL_SECONDS = 30.0
"""Maximum time to wait for a killed process, which may be stuck in a device driver."""


class WorkerError(Exception):
    """Raised when a call in a worker fails; the message gives the reason.

    Attributes:
        partial: last value that the call passed to `report_partial`; None if there is none.
        timed_out: whether the call was stopped because of its timeout.
    """

    def __init__(self, message: str, partial: Any = None, timed_out: bool = False) -> None:
        super().__init__(message)
        self.partial, self.timed_out = partial, timed_out


class Worker:
    """Calls functions in a separate process.

    The process starts on first use. After a failure, the next call starts a new process, because the device may be
    unusable in the old one. On Linux, the process is killed when its parent exits for any reason.

    Attributes:
        address_space: maximum bytes that the worker process may map; allocations beyond it fail. None means no limit.
            Use None on a GPU, because the driver maps more than the physical memory.
        environment: additional environment variables of the process.
    """

    def __init__(self, address_space: int | None = None, environment: Mapping[str, str] | None = None) -> None:
        """Create the worker without starting its process."""
        self.address_space, self.environment = address_space, dict(environment or {})
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._pipe: Any = None

    def __call__(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        """Call a module-level function in the process and return its result; `seconds` is the timeout.

        Raises:
            WorkerError: the function raised, the process exited, or the call timed out.
        """
        if self._process is None:
            self._start()
        partial, timed_out, end = None, False, time.monotonic() + seconds
        try:
            self._pipe.send((function, arguments))
            while True:
                if not self._pipe.poll(max(end - time.monotonic(), 0)):
                    done, result, timed_out = False, f"timeout after {seconds:.0f} s", True
                    break
                done, result = self._pipe.recv()
                if done is not None:
                    break
                partial = result
        except (EOFError, OSError):
            process: Any = self._process
            process.join(KILL_SECONDS)
            done, result = False, f"the worker process exited with status {process.exitcode}"
        if not done:
            self.close()
            raise WorkerError(result, partial, timed_out)
        return result

    def close(self) -> None:
        """Kill the worker process if it is running."""
        if self._process is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join(KILL_SECONDS)
            self._process = None

    def _start(self) -> None:
        self._pipe, other = self._context.Pipe()
        arguments = other, self.address_space, os.getpid()
        self._process = self._context.Process(target=_serve, args=arguments)
        with patch.dict(os.environ, self.environment):
            self._process.start()
        other.close()


_pipe: Connection | None = None
"""In a worker process, the connection to its parent."""


def report_partial(result: Any) -> None:
    """In a call of a `Worker`, report a result so far; a later report replaces it. Does nothing elsewhere."""
    if _pipe is not None:
        _pipe.send((None, result))


def memory_limit() -> int:
    """Bytes that a process may map without exhausting the memory of this machine."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * MEMORY_FRACTION)


def describe(error: BaseException) -> str:
    """Type of an error, and the first and last line of its message."""
    lines = str(error).strip().splitlines() or [""]
    texts = [lines[0], lines[-1]] if len(lines) > 1 else lines
    return f"{type(error).__name__}: " + " ... ".join(text.strip()[:MAX_MESSAGE_CHARS] for text in texts)


def _serve(pipe: Connection, address_space: int | None, parent: int) -> None:
    global _pipe
    exit_with_parent(parent)
    if address_space is not None:
        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    _pipe = pipe
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, function(*arguments)
        except Exception as error:
            answer = False, describe(error)
        pipe.send(answer)
