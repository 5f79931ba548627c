"""Download the files of published tasks once, and verify their SHA-256 on every use.

If the publisher states no hash, the first download is trusted, and a note informs the user. Later downloads must have
the same hash.
"""

import sys
from pathlib import Path

from ldarnet.errors import UserError
from ldarnet.io.cache import default_cache_folder
from ldarnet.io.download import DOWNLOAD_RETRY, DownloadFolder, Expected, describe
from ldarnet.io.files import space_errors
from ldarnet.io.lock import acquire
from ldarnet.io.retry import Retry
from ldarnet.tasks.registry import Task, TaskFile

MAGIC_BYTES = {".fna": b">", ".fa": b">", ".zip": b"PK", ".parquet": b"PAR1", ".gz": b"\x1f\x8b"}
"""First bytes of a valid file, by suffix."""


def fetch_task(task: Task, cache: Path | None = None, retry: Retry | None = None) -> tuple[Path, list[str]]:
    """Download the files of a task that are not in the cache, and verify all of them.

    An interrupted download resumes. If several processes need the files at once, one downloads and the others wait.

    Args:
        task: task to download.
        cache: folder for all tasks; ``~/.cache/ldarnet/tasks`` by default.
        retry: policy for network faults.

    Returns:
        Two items: the folder of the suite, in a layout that `ldarnet.tasks.publishers` reads; and notes on files
        without a published hash.

    Raises:
        UserError: the task has no direct download, or a file cannot be downloaded, has changed or is damaged.
    """
    if not task.files:
        raise UserError(
            f"task={task.key}: no direct download; download it manually from {task.source}, unpack it, and set "
            "data.folder"
        )
    suite = (cache or default_cache_folder() / "tasks") / task.suite
    path = suite / task.folder
    try:
        with space_errors(path):
            path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(
            f"{path}: cannot create this folder, because a part of the path is a file; choose another data.cache"
        ) from None
    with acquire(path / ".lock"):
        folder = DownloadFolder(path, path, retry or DOWNLOAD_RETRY, f"delete {path} or choose another data.cache")
        for file in task.files:
            if folder.existing(file.name, rehash=True) is None:
                _fetch(file, folder)
    unchecked = [(file.name, folder.receipts[file.name]) for file in task.files if file.sha256 is None]
    return suite, [
        f"{name} could not be verified when it was downloaded on {receipt.date[:10]}, because its publisher states "
        f"no hash; it has SHA-256 {receipt.sha256}"
        for name, receipt in unchecked
    ]


def _fetch(file: TaskFile, folder: DownloadFolder) -> None:
    print(f"downloading {file.url}", file=sys.stderr)
    receipt = folder.download(
        file.name,
        file.url,
        _expected(file, folder),
        unchecked="its publisher states no hash",
        inspect=lambda part: _check_form(file, part),
    )
    print(f"{folder.folder}/{describe(file.name, receipt)}", file=sys.stderr)


def _expected(file: TaskFile, folder: DownloadFolder) -> Expected | None:
    """Expected hash of a file: the published hash, or else that of an earlier download; None if neither exists."""
    if file.sha256:
        return Expected(f"sha256:{file.sha256}", "stated in the registry", "report it")
    if earlier := folder.receipts.get(file.name):
        hint = f"delete {folder.folder} to accept the new file"
        return Expected(f"sha256:{earlier.sha256}", f"as on {earlier.date[:10]}", hint)
    return None


def _check_form(file: TaskFile, part: Path) -> None:
    """Reject a file of the wrong type, such as a login page."""
    with part.open("rb") as content:
        begins = content.read(40)
    if not begins.startswith(MAGIC_BYTES.get(Path(file.name).suffix, b"")):
        raise UserError(
            f"{file.name}: {file.url} returned a file of another type, which starts with {begins!r}; open the URL in a "
            "browser to check for a login page or a proxy error, then run the same command again"
        )
