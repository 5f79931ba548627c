"""The folder that `sharding.fetch` fills: whole and checked files, and receipts of where they came from."""

import logging
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ldarnet.errors import UserError
from ldarnet.io.download import Download, GoneError, Patience, Report, read_text
from ldarnet.io.files import read_json, sha256_file, space_errors, sync_path, write_json_atomic
from ldarnet.io.lock import acquire
from sharding.published import Remote

RECEIPTS_NAME = "fetched.json"
_PARTS_NAME = ".fetching"
_DIGESTS = {32: "md5", 64: "sha256"}
_CHECKSUM = re.compile(r"([0-9a-fA-F]{32}|[0-9a-fA-F]{64})\s+\*?(?:\./)?(\S+)")


class Store:
    """A folder of fetched files and the receipts of them: URL, size, SHA-256, what they were checked against, date.

    A file under its final name is whole and checked. What is not whole yet lies in a folder of its own, and is used
    when the same file is fetched again.
    """

    def __init__(self, folder: Path, patience: Patience, *, unchecked: bool = False) -> None:
        """Use ``folder``; with ``unchecked``, take files that their publisher's list of checksums does not name."""
        self.folder = folder
        self._patience = patience
        self._unchecked = unchecked
        self._parts = folder / _PARTS_NAME
        self._lock = threading.Lock()
        self.receipts: dict[str, dict[str, Any]] = {}

    @contextmanager
    def opened(self) -> Iterator["Store"]:
        """Make the folder, read its receipts and keep other programs out; parts are cleared when all went well.

        Raises:
            UserError: the folder cannot be used, or another program fetches into it.
        """
        try:
            with space_errors(self.folder):
                self._parts.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{self.folder}: a file, not a folder; name another --out") from None
        with acquire(self._parts, f"{self.folder}: another program fetches into it; wait for it or name another --out"):
            self.receipts = self._read_receipts()
            yield self
            shutil.rmtree(self._parts)

    def stop(self) -> None:
        """End all that is being fetched; what is there is kept."""
        self._patience.stop.set()

    def fetch(self, remote: Remote, report: Report, folder: str = "") -> dict[str, Any]:
        """Fetch a file unless it is there already.

        Returns:
            Its receipt.

        Raises:
            UserError: it cannot be had (`GoneError`: it is nowhere any more), or it is not what its publisher's list
                of checksums says.
        """
        name = str(Path(folder, remote.name))
        final = self.folder / name
        if final.exists():
            receipt = self.receipts.get(name)
            if receipt is None or receipt["size"] != final.stat().st_size:
                raise UserError(
                    f"{final}: is there, but not as this program left it; move it away or name another --out"
                )
            return receipt
        gone: GoneError | None = None
        for url, checksums in ((remote.url, remote.checksums), *remote.elsewhere):
            try:
                return self._take(name, url, self._expected(remote.name, checksums), checksums, report)
            except GoneError as error:
                gone = gone or error
        assert gone is not None
        raise gone

    def _take(self, name: str, url: str, expected: str | None, checksums: str | None, report: Report) -> dict[str, Any]:
        final = self.folder / name
        whole = self._retrieve(final.name, url, expected, report)
        if expected is None and checksums is None:
            checked = "nothing: its publisher serves no checksum"
        else:
            checked = f"{expected} in {checksums}" if expected else f"nothing: it is not in {checksums}"
        receipt = {
            "url": url,
            "size": whole.stat().st_size,
            "sha256": sha256_file(whole),
            "checked_against": checked,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with self._lock, space_errors(final):
            final.parent.mkdir(exist_ok=True)
            self.receipts[name] = receipt
            write_json_atomic(self.folder / RECEIPTS_NAME, self.receipts, indent=2)
            whole.replace(final)
            sync_path(final.parent)
        return receipt

    def _retrieve(self, name: str, url: str, expected: str | None, report: Report) -> Path:
        """A whole and checked file among the parts."""
        try:
            import pooch
        except ImportError:
            raise UserError("fetching needs the package pooch; install it with `pip install pooch`") from None
        pooch.get_logger().setLevel(logging.ERROR)
        download: Any = Download(self._parts / f"{name}.part", self._patience, report)
        try:
            return Path(pooch.retrieve(url, expected, name, self._parts, downloader=download))
        except UserError:
            raise
        except ValueError:
            raise UserError(
                f"{name}: what came from {url} has not the checksum {expected} of its publisher's list: damaged on its "
                "way, or changed; run the same command again, and if it stays so name a --mirror"
            ) from None

    def _expected(self, name: str, checksums: str | None) -> str | None:
        """``md5:...`` or ``sha256:...`` of a file by its publisher's list; None when there is no list."""
        if checksums is None:
            return None
        try:
            text = read_text(checksums, self._patience)
        except GoneError:
            if self._unchecked:
                return None
            raise GoneError(
                f"{name}: {checksums}, which says its checksum, is gone; --unchecked does without"
            ) from None
        listed = [_CHECKSUM.fullmatch(line.strip()) for line in text.splitlines()]
        digest = next((fit[1].lower() for fit in listed if fit and fit[2] == name), None)
        if digest is None and not self._unchecked:
            raise UserError(f"{name}: {checksums} does not name it; --unchecked takes it without a checksum")
        return f"{_DIGESTS[len(digest)]}:{digest}" if digest else None

    def _read_receipts(self) -> dict[str, dict[str, Any]]:
        path = self.folder / RECEIPTS_NAME
        if not path.exists():
            return {}
        return read_json(path, "delete it together with the files it stands for")
