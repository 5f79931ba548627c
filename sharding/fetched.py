"""The folder that `sharding.fetch` fills: downloads checked against the checksum lists of their publishers."""

import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Downloads published files into a locked folder. Threads may share an instance."""

    def __init__(self, folder: DownloadFolder, retry: Retry, stop: threading.Event, *, unchecked: bool) -> None:
        self._folder, self._retry, self._stop, self._unchecked = folder, retry, stop, unchecked

    def stop(self) -> None:
        """Stop all downloads; received data are kept."""
        self._stop.set()

    def fetch(self, file: PublishedFile, report: Report, subfolder: str = "") -> Receipt:
        """Download a file unless it exists already, and return its receipt.

        Raises:
            UserError: the file cannot be downloaded (`GoneError`: it no longer exists), or does not match its
                publisher's checksum.
        """
        name = str(Path(subfolder, file.name))
        if (receipt := self._folder.existing(name)) is not None:
            return receipt
        gone: GoneError | None = None
        for url, checksums in ((file.url, file.checksums), *file.elsewhere):
            try:
                expected = self._expected(file.name, checksums)
                reason = f"it is not in {checksums}" if checksums else "its publisher serves no checksum"
                return self._folder.download(name, url, expected, unchecked=reason, report=report)
            except GoneError as error:
                gone = gone or error
        assert gone is not None
        raise gone

    def _expected(self, name: str, checksums: str | None) -> Expected | None:
        """Look up the hash of a file in its publisher's checksum list; None if there is no list."""
        if checksums is None:
            return None
        try:
            text = read_text(checksums, self._retry)
        except GoneError:
            if self._unchecked:
                return None
            raise GoneError(
                f"{name}: its checksum list {checksums} no longer exists; --unchecked downloads it without a checksum"
            ) from None
        listed = [_CHECKSUM.fullmatch(line.strip()) for line in text.splitlines()]
        digest = next((match[1].lower() for match in listed if match and match[2] == name), None)
        if digest is None:
            if self._unchecked:
                return None
            raise UserError(f"{name}: not listed in {checksums}; --unchecked downloads it without a checksum")
        return Expected(f"{_DIGESTS[len(digest)]}:{digest}", f"in {checksums}", "use a --mirror")


@contextmanager
def open_fetcher(out: Path, retry: Retry, *, unchecked: bool = False) -> Iterator[Fetcher]:
    """Create and lock a folder for downloads. Partial downloads are deleted when the block succeeds.

    Args:
        out: the folder.
        retry: policy for network faults.
        unchecked: accept files that their publisher's checksum list does not name.

    Raises:
        UserError: the folder cannot be used, or another process downloads into it.
    """
    parts = out / _PARTS_NAME
    try:
        with space_errors(out):
            parts.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{out}: a file, not a folder; choose another --out") from None
    stop = threading.Event()
    retry = replace(retry, stopped=stop.is_set)
    with acquire(parts, f"{out}: another process downloads into it; wait for it or choose another --out"):
        folder = DownloadFolder(out, parts, retry, "move it away or choose another --out")
        yield Fetcher(folder, retry, stop, unchecked=unchecked)
        shutil.rmtree(parts)
