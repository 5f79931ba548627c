"""Resumable HTTP downloads, and folders of downloaded files with receipts.

A `DownloadFolder` contains the files and ``fetched.json``, which holds a receipt for each file: URL, size, SHA-256, the
published hash it was verified against, and date. A file appears under its final name only once it is complete and
verified.
"""

import hashlib
import math
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import requests
import urllib3.exceptions
from pydantic import StringConstraints

from ldarnet.errors import UserError
from ldarnet.io.files import read_errors, sha256_file, space_errors, sync_path, write_json_atomic
from ldarnet.io.names import RelativePath
from ldarnet.io.records import Count, Sha256, read_record
from ldarnet.io.retry import Retry, RetryableError
from ldarnet.printable import printable
from ldarnet.version import __version__

RECEIPTS_NAME = "fetched.json"
DOWNLOAD_RETRY = Retry(first_wait=1.0, max_wait=60.0, max_total=math.inf, max_attempts=6)
"""Default retry policy; an attempt that receives data resets the attempt count."""
MAX_TEXT_BYTES = 64 * 2**20
"""Maximum size of a list of checksums."""
NOT_CHECKED = "nothing: "
"""Prefix of a receipt's ``checked_against`` if the file was not verified; followed by the reason."""

_PIECE = 2**18
_REPORT = "report it to the publisher or use a mirror"
_TIMEOUT = (20, 60)
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": f"ldarnet/{__version__}"}
_GONE = (404, 410)
_BUSY = (408, 425, 429)

Report = Callable[[int, int | None], None]
"""Progress callback: (bytes received so far, total bytes or None if unknown)."""


class GoneError(UserError):
    """The file no longer exists at its URL (HTTP 404 or 410)."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Record of a downloaded file.

    Attributes:
        url: URL of the file.
        size: size in bytes.
        sha256: SHA-256 of the file.
        checked_against: published hash and where it is published, or `NOT_CHECKED` and the reason.
        date: time of the download, in ISO format.
    """

    url: str
    size: Count
    sha256: Sha256
    checked_against: str
    date: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}")]


@dataclass(frozen=True, slots=True)
class _PartState:
    """State of a partial download; ``validator`` (ETag or Last-Modified) and ``total`` (bytes) are None if unknown."""

    url: str = ""
    validator: Annotated[str, StringConstraints(pattern=r"^[ -~]*$")] | None = None
    total: Count | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """The published hash that a file must match.

    Attributes:
        digest: ``md5:...`` or ``sha256:...``.
        stated: where the hash is published, such as ``in https://.../md5sum.txt``.
        hint: what to do if the hash differs again after a second download.
    """

    digest: str
    stated: str
    hint: str

    @property
    def kind(self) -> str:
        """Name of the hash function."""
        return self.digest.partition(":")[0]


class DownloadFolder:
    """A folder of downloaded files with their receipts.

    Thread-safe. A process must lock the folder first, so that no other process uses it.

    Attributes:
        receipts: receipt of each file, by file name. A name may include a subfolder.
    """

    def __init__(self, folder: Path, parts: Path, retry: Retry, hint: str) -> None:
        """Read the receipts.

        Args:
            folder: folder of the complete files.
            parts: existing folder for partial downloads, on the same file system as ``folder``.
            retry: retry policy for network errors.
            hint: what to do about files not downloaded by this program, and about a damaged ``fetched.json``.

        Raises:
            UserError: ``fetched.json`` is damaged.
        """
        self.folder = folder
        self._parts, self._retry, self._hint = parts, retry, hint
        self._lock = threading.Lock()
        path = folder / RECEIPTS_NAME
        self.receipts: dict[str, Receipt] = {}
        if path.exists():
            self.receipts = read_record(path, dict[RelativePath, Receipt], hint=hint)

    def existing(self, name: str, *, rehash: bool = False) -> Receipt | None:
        """Receipt of a file that is already in the folder; None if the file does not exist.

        Args:
            name: file name relative to the folder.
            rehash: whether to check the SHA-256 of the file; its size is always checked.

        Raises:
            UserError: the file was not downloaded by this program, or has changed since the download.
        """
        path, receipt = self.folder / name, self.receipts.get(name)
        if not path.exists():
            return None
        if receipt is None:
            raise UserError(f"{path}: exists but was not downloaded by this program; {self._hint}")
        with read_errors(path):
            if path.stat().st_size != receipt.size or (rehash and sha256_file(path) != receipt.sha256):
                date = receipt.date[:10]
                raise UserError(f"{path}: changed since it was downloaded on {date}; delete it to download it again")
        return receipt

    def download(
        self,
        name: str,
        url: str,
        expected: Expected | None,
        *,
        unchecked: str = "",
        report: Report = lambda have, total: None,
        inspect: Callable[[Path], None] = lambda path: None,
    ) -> Receipt:
        """Download a file, verify it, and write its receipt.

        Args:
            name: file name relative to the folder.
            url: URL of the file.
            expected: published hash of the file; None if there is none.
            unchecked: reason why there is no published hash, recorded in the receipt.
            report: progress callback.
            inspect: called with the path of the file if there is no published hash. To reject the file, it raises a
                UserError.

        Raises:
            GoneError: the file no longer exists at ``url``.
            UserError: the file cannot be downloaded for another reason, or its hash differs.
        """
        final, part = self.folder / name, self._parts / f"{Path(name).name}.part"
        download(url, part, self._retry, report)
        try:
            self._verify(final.name, url, part, expected, inspect)
        except UserError:
            part.unlink()
            _state_path(part).unlink(missing_ok=True)
            raise
        receipt = Receipt(
            url=url,
            size=part.stat().st_size,
            sha256=sha256_file(part),
            checked_against=f"{expected.digest} {expected.stated}" if expected else f"{NOT_CHECKED}{unchecked}",
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        with self._lock, space_errors(final):
            final.parent.mkdir(exist_ok=True)
            self.receipts[name] = receipt
            content = {name: asdict(receipt) for name, receipt in self.receipts.items()}
            write_json_atomic(self.folder / RECEIPTS_NAME, content, indent=2)
            part.replace(final)
            sync_path(final.parent)
        _state_path(part).unlink(missing_ok=True)
        return receipt

    @staticmethod
    def _verify(name: str, url: str, part: Path, expected: Expected | None, inspect: Callable[[Path], None]) -> None:
        if expected is None:
            inspect(part)
            return
        with part.open("rb") as file:
            digest = f"{expected.kind}:{hashlib.file_digest(file, expected.kind).hexdigest()}"
        if digest != expected.digest:
            raise UserError(
                f"{name}: {url}: hash is {digest}, expected {expected.digest} ({expected.stated}); the file was "
                "damaged in transit or replaced; run the same command again; if the hash still differs, "
                f"{expected.hint}"
            )


def describe(name: str, receipt: Receipt) -> str:
    """Describe a downloaded file in one line."""
    checked = printable(receipt.checked_against)
    status = f"NOT VERIFIED ({checked.removeprefix(NOT_CHECKED)})" if checked.startswith(NOT_CHECKED) else "verified"
    return f"{name}: {receipt.size:,} bytes, {status}, sha256 {receipt.sha256}"


def read_text(url: str, retry: Retry) -> str:
    """Download a small text file and return its content.

    Raises:
        GoneError: the file does not exist.
        UserError: the file cannot be downloaded for another reason, is larger than `MAX_TEXT_BYTES`, or is not text.
    """

    def receive(_: float) -> str:
        content = bytearray()
        with _get(url) as response:
            for piece in response.iter_content(_PIECE):
                content += piece
                if len(content) > MAX_TEXT_BYTES:
                    raise UserError(
                        f"{url}: larger than {MAX_TEXT_BYTES:,} bytes, too large for a list of files; {_REPORT}"
                    )
        return content.decode("utf-8")

    try:
        return retry(url, receive)
    except UnicodeDecodeError:
        raise UserError(f"{url}: not a text file; {_REPORT}") from None


def download(url: str, part: Path, retry: Retry, report: Report) -> None:
    """Download ``url`` to ``part``; resume if ``part`` exists.

    A partial download is resumed only if the server confirms (``If-Range``) that the file has not changed. The URL, the
    validator (ETag or Last-Modified) and the total size are stored in ``<part>.json``.

    Raises:
        UserError: the network, the server or the disk failed; the data received so far are kept.
    """
    with space_errors(part):
        retry(url, lambda _: _receive(url, part, retry, report), lambda: _size(part))
        sync_path(part)


def _receive(url: str, part: Path, retry: Retry, report: Report) -> None:
    state, have = _read_state(url, part), _size(part)
    if have and have == state.total:
        return
    validator = state.validator if have else None
    headers = {"Range": f"bytes={have}-", "If-Range": validator} if validator else {}
    with _get(url, headers) as response:
        if response.status_code != 200 and not (validator and _begins_at(have, response)):
            part.unlink(missing_ok=True)
            raise RetryableError("the server sent a different range than requested")
        length = response.headers.get("Content-Length")
        have = have if response.status_code == 206 else 0
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file:
            if not have:
                _write_state(url, part, response, total)
            for piece in response.raw.stream(_PIECE, decode_content=False):
                file.write(piece)
                report(file.tell(), total)
                retry.check()
    if total is not None and _size(part) != total:
        raise RetryableError(f"the connection ended after {_size(part)} of {total} bytes")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _state_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(url: str, part: Path) -> _PartState:
    """Read the state of a partial download; empty if it is missing, damaged, or belongs to another URL."""
    path = _state_path(part)
    try:
        state = read_record(path, _PartState, hint="delete it") if path.is_file() else _PartState()
    except UserError:
        return _PartState()  # download the file again
    return state if state.url == url else _PartState()


def _write_state(url: str, part: Path, response: requests.Response, total: int | None) -> None:
    tag = response.headers.get("ETag", "")
    validator = response.headers.get("Last-Modified") if tag.startswith("W/") or not tag else tag
    write_json_atomic(_state_path(part), asdict(_PartState(url, validator, total)))
    free = _free(part.parent)
    if total and total > free:
        raise UserError(
            f"no space left on device: {url} is {total:,} bytes, but {part.parent} has only {free:,} bytes free; free "
            "some space or choose another folder"
        )


@contextmanager
def _get(url: str, headers: dict[str, str] | None = None) -> Iterator[requests.Response]:
    """Open a streaming GET request. Convert transient errors, also those in the block, to `RetryableError`."""
    try:
        with requests.get(url, headers=_HEADERS | (headers or {}), stream=True, timeout=_TIMEOUT) as response:
            status = response.status_code
            if status in _GONE:
                raise GoneError(f"{url}: not found (HTTP {status}): moved or removed by the publisher; use a mirror")
            if status >= 500 or status in _BUSY:
                raise RetryableError(f"HTTP {status}")
            if status not in (200, 206, 416):
                raise UserError(f"{url}: refused (HTTP {status}); ask the publisher for access, or use a mirror")
            yield response
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise RetryableError(_reason(error)) from None
    except urllib3.exceptions.HTTPError as error:
        raise RetryableError(_reason(error)) from None
    except requests.RequestException as error:
        raise UserError(
            f"{url}: cannot be downloaded ({_reason(error)}); check the URL and the proxy settings, or use a mirror"
        ) from None


def _begins_at(offset: int, response: requests.Response) -> bool:
    return bool(re.match(rf"bytes {offset}-", response.headers.get("Content-Range", "")))


def _reason(error: Exception) -> str:
    """Describe the cause of a network error in a few words."""
    text = str(error)
    for known in ("Name or service not known", "Temporary failure in name resolution", "Network is unreachable"):
        if known in text:
            return f"no network: {known}"
    if "IncompleteRead" in text or "broken" in text:
        return "connection lost"
    if "refused" in text:
        return "connection refused"
    return "timeout" if "timed out" in text else text[:200]


def _free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
