"""Download published files once into a cache, and verify their SHA-256 on every use.

If the publisher states no hash, the first download is trusted, and a note informs the user. Later downloads must have
the same hash.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ldarnet.errors import UserError
from ldarnet.io.download import DOWNLOAD_RETRY, DownloadFolder, Expected, describe, read_text
from ldarnet.io.files import space_errors
from ldarnet.io.lock import acquire
from ldarnet.io.retry import Retry

MAGIC_BYTES = {".fna": b">", ".fa": b">", ".zip": b"PK", ".parquet": b"PAR1", ".gz": b"\x1f\x8b"}
"""First bytes of a valid file, by suffix."""

_MD5 = re.compile(r"\b[0-9a-fA-F]{32}\b")


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A file to download.

    Attributes:
        name: local file name.
        url: download URL.
        sha256: published hash; None if the publisher states no hash.
        md5_url: URL of a text file with the MD5 of the current version; None if the publisher has no such file.
    """

    name: str
    url: str
    sha256: str | None = None
    md5_url: str | None = None


def fetch_files(path: Path, files: Sequence[CachedFile], option: str, retry: Retry | None = None) -> list[str]:
    """Download the files that are not in a folder, and verify all of them.

    An interrupted download resumes. If several processes need the files at once, one downloads and the others wait.

    Args:
        path: the folder; created if it does not exist.
        files: the files.
        option: option that chooses another cache, for error messages.
        retry: policy for network faults.

    Returns:
        Notes on files that could not be verified when they were downloaded.

    Raises:
        UserError: a file cannot be downloaded, has changed or is damaged.
    """
    try:
        with space_errors(path):
            path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(
            f"{path}: cannot create this folder, because a part of the path is a file; choose another {option}"
        ) from None
    retry = retry or DOWNLOAD_RETRY
    with acquire(path / ".lock"):
        folder = DownloadFolder(path, path, retry, f"delete {path} or choose another {option}")
        for file in files:
            if folder.existing(file.name, rehash=True) is None:
                _fetch(file, folder, retry)
    unchecked = [(file.name, folder.receipts[file.name]) for file in files if not (file.sha256 or file.md5_url)]
    return [
        f"{name} could not be verified when it was downloaded on {receipt.date[:10]}, because its publisher states "
        f"no hash; it has SHA-256 {receipt.sha256}"
        for name, receipt in unchecked
    ]


def _fetch(file: CachedFile, folder: DownloadFolder, retry: Retry) -> None:
    print(f"downloading {file.url}", file=sys.stderr)
    receipt = folder.download(
        file.name,
        file.url,
        _expected(file, folder, retry),
        unchecked="its publisher states no hash",
        inspect=lambda part: _check_form(file, part),
    )
    print(f"{folder.folder}/{describe(file.name, receipt)}", file=sys.stderr)


def _expected(file: CachedFile, folder: DownloadFolder, retry: Retry) -> Expected | None:
    """Expected hash of a file: the published hash, or else that of an earlier download; None if neither exists."""
    if file.sha256:
        return Expected(f"sha256:{file.sha256}", "stated in the registry", "report it")
    if file.md5_url:
        match = _MD5.search(read_text(file.md5_url, retry))
        if not match:
            raise UserError(f"{file.md5_url}: contains no MD5; run the same command again, or report it")
        return Expected(f"md5:{match[0].lower()}", f"in {file.md5_url}", "report it")
    if earlier := folder.receipts.get(file.name):
        hint = f"delete {folder.folder} to accept the new file"
        return Expected(f"sha256:{earlier.sha256}", f"as on {earlier.date[:10]}", hint)
    return None


def _check_form(file: CachedFile, part: Path) -> None:
    """Reject a file of the wrong type, such as a login page."""
    with part.open("rb") as content:
        begins = content.read(40)
    if not begins.startswith(MAGIC_BYTES.get(Path(file.name).suffix, b"")):
        raise UserError(
            f"{file.name}: {file.url} returned a file of another type, which starts with {begins!r}; open the URL in a "
            "browser to check for a login page or a proxy error, then run the same command again"
        )
