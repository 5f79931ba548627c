"""Download the files of published tasks into a cache."""

from pathlib import Path

from ldarnet.errors import UserError
from ldarnet.io.cache import default_cache_folder
from ldarnet.io.published_files import fetch_files
from ldarnet.io.retry import Retry
from ldarnet.tasks.registry import Task


def fetch_task(task: Task, cache: Path | None = None, retry: Retry | None = None) -> tuple[Path, list[str]]:
    """Download the files of a task that are not in the cache, and verify all of them.

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
    return suite, fetch_files(suite / task.folder, task.files, "data.cache", retry)
