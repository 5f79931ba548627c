"""The files of published tasks: fetched once, whole, and known again by their hash.

A folder holds the files and ``fetched.json`` with a receipt of each: URL, size, SHA-256, what that was compared with,
date. Where a publisher states no hash, the first copy is trusted, the user is told, and every later one must equal it.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ldarnet.errors import UserError
from ldarnet.io.cache import default_cache_folder
from ldarnet.io.download import Download, Patience
from ldarnet.io.files import read_errors, read_json, sha256_file, space_errors, sync_path, write_json_atomic
from ldarnet.io.lock import acquire
from ldarnet.tasks.registry import Remote, Task

RECEIPTS_NAME = "fetched.json"
BEGINNINGS = {".fna": b">", ".fa": b">", ".zip": b"PK", ".parquet": b"PAR1", ".gz": b"\x1f\x8b"}
"""What files begin with, by the end of their name."""
_TRUSTED = "nothing: its publisher states no hash"


def fetch_task(task: Task, cache: Path | None = None, patience: Patience | None = None) -> tuple[Path, list[str]]:
    """Fetch the files of a task, or find that they are there and as they came.

    A download that was stopped goes on where it was. Of several processes one fetches and the others wait.

    Args:
        task: the task.
        cache: folder for all tasks; ``~/.cache/ldarnet/tasks`` if None.
        patience: how faults that may pass are met.

    Returns:
        The folder of the suite, as `ldarnet.tasks.publishers` reads it, and notes on what could not be checked.

    Raises:
        UserError: a program cannot fetch this task, or a file cannot be had, has changed or was damaged.
    """
    if not task.files:
        raise UserError(
            f"task={task.key}: cannot be fetched by a program; get it by hand as {task.source} says, unpack it, and "
            "name the folder with data.folder"
        )
    suite = (cache or default_cache_folder() / "tasks") / task.suite
    folder = suite / task.folder
    try:
        with space_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder}: cannot be made a folder; name another data.cache") from None
    with acquire(folder / ".lock"):
        receipts = _read_receipts(folder)
        for remote in task.files:
            if (folder / remote.name).exists():
                _demand_unchanged(folder / remote.name, receipts.get(remote.name))
            else:
                _fetch(remote, folder, receipts, patience or Patience())
    trusted = [(remote.name, receipts[remote.name]) for remote in task.files if remote.sha256 is None]
    return suite, [
        f"{name} could not be checked when it was fetched on {receipt['date'][:10]}, because its publisher states no "
        f"hash; it has SHA-256 {receipt['sha256']}"
        for name, receipt in trusted
    ]


def _fetch(remote: Remote, folder: Path, receipts: dict[str, Any], patience: Patience) -> None:
    first = receipts.get(remote.name, {})
    expected = remote.sha256 or first.get("sha256")
    part, whole = folder / f".{remote.name}.part", folder / f".{remote.name}.whole"
    print(f"fetching {remote.url}", file=sys.stderr)
    Download(part, patience, lambda have, total: None)(remote.url, str(whole))
    digest = sha256_file(whole)
    if expected and digest != expected:
        whole.unlink()
        if remote.sha256:
            stated, remedy = "the registry states", "report it"
        else:
            stated, remedy = f"it had on {first['date'][:10]}", f"delete the folder {folder} to take the new one"
        raise UserError(
            f"{remote.name}: what came from {remote.url} has SHA-256 {digest}, not {expected} as {stated}: damaged on "
            f"its way, or changed; run the same command again, and if it stays so {remedy}"
        )
    if not expected:
        _demand_form(remote, whole)
    receipt = {
        "url": remote.url,
        "size": whole.stat().st_size,
        "sha256": digest,
        "checked_against": expected or _TRUSTED,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    receipts[remote.name] = receipt
    write_json_atomic(folder / RECEIPTS_NAME, receipts, indent=2)
    whole.replace(folder / remote.name)
    sync_path(folder)
    checked = "checked" if expected else f"NOT CHECKED ({_TRUSTED.removeprefix('nothing: ')})"
    print(f"{folder / remote.name}: {receipt['size']:,} bytes, {checked}, sha256 {digest}", file=sys.stderr)


def _demand_form(remote: Remote, whole: Path) -> None:
    """Refuse what is plainly another thing, such as the page of a login, before it is trusted for good."""
    with whole.open("rb") as file:
        begins = file.read(40)
    if not begins.startswith(BEGINNINGS.get(Path(remote.name).suffix, b"")):
        whole.unlink()
        raise UserError(
            f"{remote.name}: what came from {remote.url} is something else, it begins with {begins!r}; open that "
            "address in a browser to see what stands between (a proxy, a login), then run the same command again"
        )


def _demand_unchanged(path: Path, receipt: dict[str, Any] | None) -> None:
    if receipt is None:
        raise UserError(
            f"{path}: is there, but not as this program left it; delete the folder {path.parent} or name another "
            "data.cache"
        )
    with read_errors(path):
        digest = sha256_file(path)
    if digest != receipt["sha256"]:
        raise UserError(
            f"{path}: changed since it was fetched on {receipt['date'][:10]} (SHA-256 {digest}, then "
            f"{receipt['sha256']}); delete it and run the same command again"
        )


def _read_receipts(folder: Path) -> dict[str, Any]:
    path = folder / RECEIPTS_NAME
    if not path.exists():
        return {}
    return read_json(path, f"delete the folder {folder} and run the same command again")
