"""Trying again what may pass: reads over a network."""

import itertools
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ldarnet.errors import TransientError

Result = TypeVar("Result")

_LOG = logging.getLogger(__name__)
# Waits may not depend on a seed, or all ranks would knock again at one time, nor move the generator that training uses.
_RANDOM = random.SystemRandom()
_TRANSIENT_STATUS = (408, 425, 429)


class ShortReadError(OSError):
    """Fewer bytes came than were asked for, and the connection ended without an error."""

    def __init__(self, data: bytes, wanted: int) -> None:
        super().__init__(f"{len(data)} of {wanted} bytes came")
        self.data = data


@dataclass(frozen=True, slots=True)
class Retry:
    """How long to go on, in seconds. The wait doubles from try to try, and is drawn between half of it and all of it.

    Attributes:
        first: the first wait.
        longest: the longest wait.
        total: when to give up, counted from the first try.
        attempt: the longest time of one try.
        short_reads: how often to try when a read ends early without an error; a file that is too short does so always.
    """

    first: float = 0.5
    longest: float = 30.0
    total: float = 300.0
    attempt: float = 60.0
    short_reads: int = 3

    def __call__(self, what: str, read: Callable[[float], Result]) -> Result:
        """What ``read(timeout in seconds)`` returns, in the first try that succeeds.

        Args:
            what: the thing read, for messages.
            read: raises what it likes; errors for which `is_final` holds are passed on at once.

        Raises:
            TransientError: the last try failed too.
            ShortReadError: every try ended early.
        """
        began, spent = time.monotonic(), 0.0
        for attempt in itertools.count(1):
            try:
                return read(max(min(self.attempt, self.total - spent), 0.01))
            except Exception as error:
                if is_final(error) or (isinstance(error, ShortReadError) and attempt >= self.short_reads):
                    raise
                wait = _RANDOM.uniform(0.5, 1) * min(self.longest, self.first * 2 ** min(attempt - 1, 60))
                spent = time.monotonic() - began + wait
                cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                if spent >= self.total:
                    raise TransientError(
                        f"{what}: could not be read in {attempt} attempts over {spent - wait:.0f} s, the last of which "
                        f"failed with {cause}; check the network and the server, then run the same command again"
                    ) from error
                _LOG.warning("%s: attempt %d failed (%s); the next follows in %.1f s", what, attempt, cause, wait)
            time.sleep(wait)
        raise AssertionError


def status_of(error: Exception) -> int | None:
    """The HTTP status that an error of fsspec's file systems tells of, if it does."""
    for name in ("status", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int):
            return status
    return None


def is_final(error: Exception) -> bool:
    """Whether trying again cannot help: no such file, no permission, no credentials, no such package, a bad address."""
    status = status_of(error)
    if status is not None:
        return 400 <= status < 500 and status not in _TRANSIENT_STATUS
    final = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError, ValueError, TypeError, AttributeError)
    return isinstance(error, final) or "Credentials" in type(error).__name__
