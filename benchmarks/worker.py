"""Worker process that isolates failures, hangs and excessive memory use of measurements."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

MEMORY_FRACTION = 0.85
MAX_MESSAGE_CHARS = 200


class WorkerError(Exception):
    """Raised when a call in a worker fails; the message gives the reason."""


class Worker:
    """Calls functions in a separate process.

    The process starts on first use. After a failure, the next call starts a new process, because the device may be
    unusable in the old one.

    Attributes:
        address_space: maximum bytes that the worker process may map; allocations beyond it fail. None means no limit.
            Use None on a GPU, because the driver maps more than the physical memory.
    """

    def __init__(self, address_space: int | None = None) -> None:
        """Create the worker without starting its process."""
        self.address_space = address_space
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._pipe: Any = None

    def __call__(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        """Call a module-level function in the process and return its result; `seconds` is the timeout.

        Raises:
            WorkerError: the function raised, the process exited, or the call timed out.
        """
        if self._process is None:
            self._pipe, other = self._context.Pipe()
            self._process = self._context.Process(target=_serve, args=(other, self.address_space))
            self._process.start()
            other.close()
        try:
            self._pipe.send((function, arguments))
            done, result = self._pipe.recv() if self._pipe.poll(seconds) else (False, f"timeout after {seconds:.0f} s")
        except (EOFError, OSError):
            self._process.join()
            done, result = False, f"the worker process exited with status {self._process.exitcode}"
        if not done:
            self.close()
            raise WorkerError(result)
        return result

    def close(self) -> None:
        """Kill the worker process if it is running."""
        if self._process is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join()
            self._process = None


def memory_limit() -> int:
    """Bytes that a process may map without exhausting the memory of this machine."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * MEMORY_FRACTION)


def _serve(pipe: Connection, address_space: int | None) -> None:
    if address_space is not None:
        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, function(*arguments)
        except Exception as error:
            first_line = str(error).strip().partition("\n")[0]
            answer = False, f"{type(error).__name__}: {first_line[:MAX_MESSAGE_CHARS]}"
        pipe.send(answer)
