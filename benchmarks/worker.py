"""A process that measures, so that what fails, hangs or takes all memory there spoils nothing else."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

SHARE_OF_MEMORY = 0.85
LONGEST_MESSAGE = 200


class WorkerError(Exception):
    """What was asked of a worker failed; says why."""


class Worker:
    """Calls functions in a process of its own.

    The process is started when it is first needed, and afresh after a failure, which may leave a device unusable.

    Attributes:
        address_space: most bytes that the process may map: more fails there. None sets no limit, as a GPU needs, whose
            driver maps more than there is.
    """

    def __init__(self, address_space: int | None = None) -> None:
        """Start nothing yet."""
        self.address_space = address_space
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._pipe: Any = None

    def __call__(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        """What a module's function returns.

        Raises:
            WorkerError: it raised something, the process ended, or the time was up.
        """
        if self._process is None:
            self._pipe, other = self._context.Pipe()
            self._process = self._context.Process(target=_serve, args=(other, self.address_space))
            self._process.start()
            other.close()
        try:
            self._pipe.send((function, arguments))
            done, result = self._pipe.recv() if self._pipe.poll(seconds) else (False, f"not done after {seconds:.0f} s")
        except (EOFError, OSError):
            self._process.join()
            done, result = False, f"the process ended with status {self._process.exitcode}"
        if not done:
            self.close()
            raise WorkerError(result)
        return result

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join()
            self._process = None


def most_memory() -> int:
    """Bytes that a process may map without bringing this machine to a standstill."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * SHARE_OF_MEMORY)


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
            answer = False, f"{type(error).__name__}: {first_line[:LONGEST_MESSAGE]}"
        pipe.send(answer)
