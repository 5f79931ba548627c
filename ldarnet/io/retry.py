"""Retry with exponential back-off, for reads over a network."""

import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ldarnet.errors import TransientError, UserError
from ldarnet.io.files import may_pass

Result = TypeVar("Result")

_LOG = logging.getLogger(__name__)
# Jitter must not depend on a seed, or all ranks would retry at the same time, nor advance the generator of training.
_RANDOM = random.SystemRandom()
_TRANSIENT_STATUS = (408, 425, 429)
_POLL_SECONDS = 0.5


class RetryableError(Exception):
    """A network or server fault; its message states the cause and is shown to the user."""


class ShortReadError(OSError):
    """The connection ended without an error before all requested bytes arrived."""

    def __init__(self, data: bytes, requested: int) -> None:
        super().__init__(f"received {len(data)} of {requested} bytes")
        self.data = data


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Retry:
    """Retry policy. The nominal wait doubles with each attempt; the actual wait is random, 50 to 100% of the nominal.

    Attributes:
        first_wait: nominal first wait, in seconds.
        max_wait: longest nominal wait, in seconds.
        max_total: seconds from the first attempt after which to give up.
        timeout: seconds that one attempt may take.
        max_short_reads: attempts when a read ends early without an error, as it always does if the file is too short.
        max_attempts: attempts after which to give up.
        stopped: polled while waiting; give up when it returns True.
    """

    first_wait: float = 0.5
    max_wait: float = 30.0
    max_total: float = 300.0
    timeout: float = 60.0
    max_short_reads: int = 3
    max_attempts: float = math.inf
    stopped: Callable[[], bool] = _never

    def __call__(self, what: str, read: Callable[[float], Result], progress: Callable[[], int] = int) -> Result:
        """Call ``read(timeout in seconds)`` until it succeeds, and return its result.

        Args:
            what: what is read, for messages.
            read: the operation; errors for which `is_final` holds are raised at once.
            progress: bytes so far; when it grows, attempts and time are counted from 0 again.

        Raises:
            TransientError: the last attempt failed too.
            ShortReadError: every attempt ended early.
            UserError: ``stopped`` became true.
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
                of = "" if self.max_attempts == math.inf else f" of {self.max_attempts}"
                _LOG.warning("%s: attempt %d%s failed (%s); retrying in %.2g s", what, failures, of, cause, wait)
            self._wait(wait)

    def check(self) -> None:
        """Raise a UserError if `stopped`."""
        if self.stopped():
            raise UserError("stopped; run the same command again to resume")

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _POLL_SECONDS))
            self.check()


def call_remote(
    retry: Retry,
    url: str,
    read: Callable[[float], Result],
    *,
    what: str | None = None,
    missing: UserError | None = None,
) -> Result:
    """Call ``read(timeout)``, which uses an fsspec file system, with retries and one-line errors.

    Args:
        retry: the policy.
        url: URL for messages.
        read: the operation.
        what: what is read, for messages of retries; ``url`` by default.
        missing: error to raise if there is no such file.

    Raises:
        TransientError: the last attempt failed too.
        ShortReadError: every attempt ended early.
        UserError: another failure.
    """

    def attempt(timeout: float) -> Result:
        try:
            return read(timeout)
        except FileNotFoundError as error:
            if url.startswith(("http://", "https://")):  # fsspec may raise it for any web server failure
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
            raise UserError(f"{url}: {error}; install that package") from None
        raise UserError(f"{url}: cannot be read ({cause}); check the address") from None


def _cause(error: Exception) -> str:
    if isinstance(error, RetryableError | ShortReadError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def status_of(error: Exception) -> int | None:
    """The HTTP status in an error of an fsspec file system, if any."""
    for name in ("status", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int):
            return status
    return None


def is_final(error: Exception) -> bool:
    """Whether a retry cannot help: a missing file or package, no permission, a bad address, a full disk."""
    status = status_of(error)
    if status is not None:
        return 400 <= status < 500 and status not in _TRANSIENT_STATUS
    if isinstance(error, OSError) and not may_pass(error):
        return True
    final = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError, ValueError, TypeError, AttributeError)
    return isinstance(error, final) or "Credentials" in type(error).__name__
