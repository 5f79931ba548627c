"""Downloads that go on where they stopped, and are only taken when they are whole."""

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import urllib3.exceptions

from ldarnet.errors import UserError
from ldarnet.io.files import space_errors, sync_path, write_json_atomic
from ldarnet.version import __version__

_PIECE = 2**18
_TIMEOUT = (20, 60)
_POLL_SECONDS = 0.5
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": f"ldarnet/{__version__}"}
_GONE = (404, 410)
_BUSY = (408, 425, 429)

Report = Callable[[int, int | None], None]
"""Is told the bytes of a file that are there, and those of all of it, None while unknown."""


class GoneError(UserError):
    """Nothing lies at a URL."""


class _PassingError(Exception):
    """A fault of the network or the server that may be over in a moment."""


@dataclass
class Patience:
    """How faults that may pass are met: attempts without any progress, and seconds before the second (then doubled).

    Setting ``stop`` ends every download that shares it, and so does ``asked`` once it says yes.
    """

    attempts: int = 6
    pause: float = 1.0
    stop: threading.Event = field(default_factory=threading.Event)
    asked: Callable[[], bool] = lambda: False

    def keep_trying(self, url: str, receive: Callable[[], Any], progress: Callable[[], int] = lambda: 0) -> Any:
        """Call ``receive`` until it succeeds; attempts are counted anew whenever ``progress`` has grown.

        Raises:
            UserError: too many attempts in a row failed, or somebody asked to stop.
        """
        failures = 0
        while True:
            before = progress()
            try:
                return receive()
            except _PassingError as error:
                failures = 1 if progress() > before else failures + 1
                if failures >= self.attempts:
                    raise UserError(
                        f"{_name(url)}: cannot be fetched from {url} ({error}; {failures} attempts); check the network "
                        "and run the same command again: it goes on where it stopped"
                    ) from None
            pause = min(60.0, self.pause * 2 ** (failures - 1))
            if failures > 1:
                print(f"{_name(url)}: no answer for the {failures}. time, waiting {pause:.0f} s", file=sys.stderr)
            until = time.monotonic() + pause
            while time.monotonic() < until:
                self.stop.wait(min(pause, _POLL_SECONDS))
                self.check()

    def check(self) -> None:
        """Raise when somebody has asked to stop."""
        if self.stop.is_set() or self.asked():
            raise UserError("stopped; run the same command again: it goes on where it stopped")


def read_text(url: str, patience: Patience) -> str:
    """The text of a small file.

    Raises:
        UserError: it cannot be fetched (`GoneError`: there is none), or is no text.
    """

    def receive() -> str:
        with _get(url) as response:
            return response.content.decode("utf-8")

    try:
        return patience.keep_trying(url, receive)
    except UnicodeDecodeError:
        raise UserError(f"{_name(url)}: what lies at {url} is no text; report it or use a mirror") from None


class Download:
    """A downloader, of the form that `pooch.retrieve` takes, that keeps what it has in a file and goes on from there.

    What was received before is used only if the server says (``If-Range``) that the file is still the same one.
    """

    def __init__(self, part: Path, patience: Patience, report: Report) -> None:
        """Keep what is received in ``part``."""
        self._part = part
        self._state = part.with_name(f"{part.name}.json")
        self._patience = patience
        self._report = report

    def __call__(self, url: str, output_file: str, pooch: object = None) -> None:
        """Receive all of ``url`` and move it to ``output_file``.

        Raises:
            UserError: the network, the server or the disk does not allow it. What came so far is kept.
        """
        with space_errors(self._part):
            self._patience.keep_trying(url, lambda: self._receive(url), self._size)
            sync_path(self._part)
            self._part.replace(output_file)
            self._state.unlink(missing_ok=True)

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _receive(self, url: str) -> None:
        state, have = self._known(url), self._size()
        if have and have == state.get("total"):
            return
        resumable = have and state.get("validator")
        headers = {"Range": f"bytes={have}-", "If-Range": state["validator"]} if resumable else {}
        with _get(url, headers) as response:
            if response.status_code != 200 and not (resumable and _begins_at(have, response)):
                self._part.unlink(missing_ok=True)
                raise _PassingError("the server sent another part than was asked for")
            length = response.headers.get("Content-Length")
            have = have if response.status_code == 206 else 0
            total = have + int(length) if length else None
            with self._part.open("ab" if have else "wb") as file:
                if not have:
                    self._remember(url, response, total)
                for piece in response.raw.stream(_PIECE, decode_content=False):
                    file.write(piece)
                    self._report(file.tell(), total)
                    self._patience.check()
        if total is not None and self._size() != total:
            raise _PassingError(f"the connection ended after {self._size()} of {total} bytes")

    def _known(self, url: str) -> dict[str, Any]:
        """What was noted of the file when its part was begun; nothing if that was another URL."""
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return state if state.get("url") == url else {}

    def _remember(self, url: str, response: requests.Response, total: int | None) -> None:
        tag = response.headers.get("ETag", "")
        validator = response.headers.get("Last-Modified") if tag.startswith("W/") or not tag else tag
        write_json_atomic(self._state, {"url": url, "validator": validator, "total": total})
        free = _free(self._part.parent)
        if total and total > free:
            raise UserError(
                f"{_name(url)}: its {total:,} bytes do not fit on the disk of {self._part.parent} ({free:,} are free); "
                "free some space or name another folder"
            )


@contextmanager
def _get(url: str, headers: dict[str, str] | None = None) -> Iterator[requests.Response]:
    """An answer with a body; whatever may pass is a `_PassingError`, here and while the body is read."""
    try:
        with requests.get(url, headers=_HEADERS | (headers or {}), stream=True, timeout=_TIMEOUT) as response:
            status = response.status_code
            if status in _GONE:
                raise GoneError(
                    f"{_name(url)}: nothing lies at {url} (HTTP {status}); the publisher moved or removed it: "
                    "look for it there, or take it from a mirror"
                )
            if status >= 500 or status in _BUSY:
                raise _PassingError(f"HTTP {status}")
            if status not in (200, 206, 416):
                remedy = "ask its publisher, or take it from a mirror"
                raise UserError(f"{_name(url)}: {url} is refused (HTTP {status}); {remedy}")
            yield response
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _PassingError(_reason(error)) from None
    except urllib3.exceptions.HTTPError as error:
        raise _PassingError(_reason(error)) from None
    except requests.RequestException as error:
        raise UserError(f"{_name(url)}: {url} cannot be fetched ({_reason(error)}); correct the URL") from None


def _begins_at(place: int, response: requests.Response) -> bool:
    return bool(re.match(rf"bytes {place}-", response.headers.get("Content-Range", "")))


def _reason(error: Exception) -> str:
    """The innermost reason, which is the one that says something."""
    text = str(error)
    for known in ("Name or service not known", "Temporary failure in name resolution", "Network is unreachable"):
        if known in text:
            return f"no network: {known}"
    if "IncompleteRead" in text or "broken" in text:
        return "the connection broke off"
    if "refused" in text:
        return "the server refuses connections"
    return "no answer in time" if "timed out" in text else text[:200]


def _free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _name(url: str) -> str:
    return url.rsplit("/", 1)[-1]
