"""Retries with exponential backoff for network reads."""

import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ldarnet.errors import TransientError, UserError
from ldarnet.io.files import is_transient
from ldarnet.redaction import redact

Result = TypeVar("Result")

_LOG = logging.getLogger(__name__)
# Unseeded, so that ranks do not retry at the same time; separate, so that jitter does not advance the training RNG.
_RANDOM = random.SystemRandom()
_TRANSIENT_STATUS = (408, 425, 429)
_POLL_SECONDS = 0.5


class RetryableError(Exception):
    """A network or server error that may go away; its message states the cause and is shown to the user."""


class ShortReadError(OSError):
    """The connection ended without an error before all requested bytes arrived."""

    def __init__(self, data: bytes, requested: int) -> None:
        super().__init__(f"received {len(data)} of {requested} bytes")
        self.data = data


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Retry:
    """Retry policy: exponential backoff with jitter. Each wait is a random fraction, 50 to 100%, of the nominal wait.

    Attributes:
        first_wait: nominal wait after the first attempt, in seconds. It doubles after each further attempt.
        max_wait: maximum nominal wait, in seconds.
        max_total: maximum time for all attempts and waits, in seconds.
        timeout: maximum time for one attempt, in seconds.
        max_short_reads: maximum number of attempts if a read raises a `ShortReadError`. The default is low, because a
            read beyond the end of a truncated file always ends early.
        max_attempts: maximum number of attempts.
        stopped: polled while waiting; the retries end when it returns True.
    """

    first_wait: float = 0.5
    max_wait: float = 30.0
    max_total: float = 300.0
    timeout: float = 60.0
    max_short_reads: int = 3
    max_attempts: float = math.inf
    stopped: Callable[[], bool] = _never

    def __call__(self, what: str, read: Callable[[float], Result], progress: Callable[[], int] = int) -> Result:
        """Call ``read(timeout)``, with a timeout in seconds, until it succeeds; return its result.

        Args:
            what: name of the data, for messages.
            read: function to retry. An error for which `is_final` is true is raised unchanged, without a retry.
            progress: returns the number of bytes received so far; an increase resets the attempt count and the time.

        Raises:
            TransientError: the maximum number of attempts or the maximum time is reached.
            ShortReadError: a read ended early, and at least ``max_short_reads`` attempts have failed.
            UserError: ``stopped`` returned True.
        """
        failures, began, reached = 0, time.monotonic(), progress()
        while True:
            spent = time.monotonic() - began
            try:
                return read(max(min(self.timeout, self.max_total - spent), 0.01))
            except Exception as error:
                if (now := progress()) > reached:
                    failures, began, reached = 0, time.monotonic(), now
                failures += 1
                if is_final(error) or (isinstance(error, ShortReadError) and failures >= self.max_short_reads):
                    raise
                wait = _RANDOM.uniform(0.5, 1) * min(self.max_wait, self.first_wait * 2 ** min(failures - 1, 60))
                spent, cause = time.monotonic() - began, _cause(error)
                if failures >= self.max_attempts or spent + wait >= self.max_total:
                    raise TransientError(
                        f"{what}: failed after {failures} attempts in {spent:.0f} s ({cause}); check the network and "
                        "the server, then run the same command again"
                    ) from error
                limit = "" if self.max_attempts == math.inf else f" of {self.max_attempts}"
                _LOG.warning("%s: attempt %d%s failed (%s); retrying in %.2g s", what, failures, limit, cause, wait)
            self._wait(wait)

    def check(self) -> None:
        """Raise a UserError if `stopped` returns True."""
        if self.stopped():
            raise UserError("stopped; run the same command again to resume")

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (remaining := until - time.monotonic()) > 0:
            time.sleep(min(remaining, _POLL_SECONDS))
            self.check()


def call_remote(
    retry: Retry,
    url: str,
    read: Callable[[float], Result],
    *,
    what: str | None = None,
    missing: UserError | None = None,
) -> Result:
    """Call ``read(timeout)`` with retries, and return its result. The timeout is in seconds.

    Args:
        retry: retry policy.
        url: URL of the file, for messages.
        read: function to retry, which reads through fsspec.
        what: name of the data, for messages about retries; ``url`` by default.
        missing: error to raise if the file does not exist; a generic `UserError` by default.

    Raises:
        TransientError: the maximum number of attempts or the maximum time is reached.
        ShortReadError: a read ended early, and at least ``retry.max_short_reads`` attempts have failed.
        UserError: any other failure; the message is one line.
    """

    def attempt(timeout: float) -> Result:
        try:
            return read(timeout)
        except FileNotFoundError as error:
            if url.startswith(("http://", "https://")):  # fsspec also raises this error for other HTTP errors
                raise error.__cause__ or error from None
            raise

    try:
        return retry(what or url, attempt)
    except (UserError, ShortReadError):
        raise
    except Exception as error:
        status, cause = status_of(error), f"{type(error).__name__}: {error}"
        if isinstance(error, FileNotFoundError) or status in (404, 410):
            raise missing or UserError(f"{url}: no such file; check the address") from None
        if isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in type(error).__name__:
            cause = str(status or error or type(error).__name__)
            raise UserError(f"{url}: no permission to read it ({cause}); check your credentials") from None
        if isinstance(error, ImportError):
            raise UserError(f"{url}: {error}; install the missing package") from None
        raise UserError(f"{url}: cannot be read ({cause}); check the address") from None


def _cause(error: Exception) -> str:
    if isinstance(error, RetryableError | ShortReadError):
        return redact(str(error))
    return redact(f"{type(error).__name__}: {error}") if str(error) else type(error).__name__


def status_of(error: Exception) -> int | None:
    """HTTP status of an error raised by an fsspec file system; None if it has none."""
    for name in ("status", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int):
            return status
    return None


def is_final(error: Exception) -> bool:
    """Whether an error is permanent: missing file or package, no permission, bad URL, full disk."""
    status = status_of(error)
    if status is not None:
        return 400 <= status < 500 and status not in _TRANSIENT_STATUS
    if isinstance(error, OSError) and not is_transient(error):
        return True
    final = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError, ValueError, TypeError, AttributeError)
    return isinstance(error, final) or "Credentials" in type(error).__name__
