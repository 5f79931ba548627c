"""Locks on run folders, and the check that a run folder holds a single configuration."""

from collections.abc import Sequence
from pathlib import Path

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import space_errors
from ldarnet.io.lock import Lock, acquire


def lock_run_dir(run_dir: Path) -> Lock:
    """Create a run folder and lock it.

    Raises:
        FolderInUseError: another process is training in this folder.
        UserError: the folder cannot be created or is not writable.
    """
    path = run_dir / run_files.LOCK
    try:
        with space_errors(path):
            run_dir.mkdir(parents=True, exist_ok=True)
        return acquire(path, f"{run_dir}: in use by another training run; wait for it, or choose another run.dir")
    except OSError as error:
        raise UserError(f"run.dir={run_dir}: not writable ({error.strerror}); choose another run.dir") from None


def check_same_configuration(
    changed: Sequence[str], folder: object, key: str, *, at: str = "", delete: object = None
) -> None:
    """Refuse to mix runs with different configurations in one folder.

    Args:
        changed: differences between the configuration in the folder and the current one, from `config.differences`.
        folder: path or URL of the folder.
        key: configuration key that sets the folder, such as "run.dir".
        at: progress of the run in the folder, inserted into the message, such as " at step 10".
        delete: what the user may delete to use the current configuration; by default, the folder.

    Raises:
        UserError: `changed` is not empty.
    """
    if changed:
        raise UserError(
            f"{folder}: contains a run{at} with a different configuration ({'; '.join(changed)}); choose another "
            f"{key}, or delete {delete or folder}"
        )
