"""Download folder of `sharding.fetch`: files are verified against their publishers' checksum lists."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ldarnet.errors import UserError
from ldarnet.io.download import DownloadFolder, Expected, GoneError, Receipt, Report, read_text
from ldarnet.io.files import space_errors
from ldarnet.io.lock import acquire
from ldarnet.io.retry import Retry
from sharding.published import PublishedFile

_PARTS_NAME = ".fetching"
_DIGESTS = {32: "md5", 64: "sha256"}
_CHECKSUM = re.compile(r"([0-9a-fA-F]{32}|[0-9a-fA-F]{64})\s+\*?(?:\./)?(\S+)")


class Fetcher:
    """Downloads published files into a locked folder. Thread-safe."""

    def __init__(self, folder: DownloadFolder, retry: Retry, stop: threading.Event, *, unchecked: bool) -> None:
        self._folder, self._retry, self._stop, self._unchecked = folder, retry, stop, unchecked

    def stop(self) -> None:
        """Stop all downloads; partial downloads are kept."""
        self._stop.set()

    def fetch(self, file: PublishedFile, report: Report, subfolder: str = "") -> Receipt:
        """Download a file unless it exists already, and return its receipt.

        Raises:
            GoneError: the file no longer exists.
            UserError: the file cannot be downloaded, or does not match its publisher's checksum.
        """
        name = str(Path(subfolder, file.name))
        if (receipt := self._folder.existing(name)) is not None:
            return receipt
        gone: GoneError | None = None
        for url, checksums in ((file.url, file.checksums), *file.elsewhere):
            try:
                expected = self._expected(file.name, checksums)
                reason = f"it is not listed in {checksums}" if checksums else "its publisher provides no checksum"
                return self._folder.download(name, url, expected, unchecked=reason, report=report)
            except GoneError as error:
                gone = gone or error
        assert gone is not None
        raise gone

    def _expected(self, name: str, checksums: str | None) -> Expected | None:
        """Look up the hash of a file in its publisher's checksum list.

        Returns:
            The hash. None if the publisher has no list or, with ``unchecked``, if the hash cannot be found.
        """
        if checksums is None:
            return None
        try:
            text = read_text(checksums, self._retry)
        except GoneError:
            if self._unchecked:
                return None
            raise GoneError(
                f"{name}: the checksum list {checksums} no longer exists; use --unchecked to download the file without "
                "verification"
            ) from None
        listed = [_CHECKSUM.fullmatch(line.strip()) for line in text.splitlines()]
        digest = next((match[1].lower() for match in listed if match and match[2] == name), None)
        if digest is None:
            if self._unchecked:
                return None
            raise UserError(
                f"{name}: not listed in {checksums}; use --unchecked to download the file without verification"
            )
        return Expected(f"{_DIGESTS[len(digest)]}:{digest}", f"in {checksums}", "use a --mirror")


@contextmanager
def open_fetcher(out: Path, retry: Retry, *, unchecked: bool = False) -> Iterator[Fetcher]:
    """Create and lock a download folder. Partial downloads are deleted if the ``with`` block succeeds.

    Args:
        out: the folder.
        retry: retry policy for network failures.
        unchecked: accept a file without verification if the publisher's checksum list no longer exists, or does not
            contain the file.

    Raises:
        UserError: the folder cannot be used, or another process is downloading into it.
    """
    parts = out / _PARTS_NAME
    try:
        with space_errors(out):
            parts.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{out}: is a file, not a folder; choose another --out") from None
    stop = threading.Event()
    retry = replace(retry, stopped=stop.is_set)
    busy = f"{out}: another process is downloading into this folder; wait until it ends or choose another --out"
    with acquire(parts, busy):
        folder = DownloadFolder(out, parts, retry, "move it away or choose another --out")
        yield Fetcher(folder, retry, stop, unchecked=unchecked)
        for path in (*parts.glob("*.part"), *parts.glob("*.part.json")):
            path.unlink()
        with suppress(OSError):  # other files remain
            parts.rmdir()
