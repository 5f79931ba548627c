"""One training process at a time in a run folder."""

from pathlib import Path

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import space_errors
from ldarnet.io.lock import Lock, acquire


def lock(run_dir: Path) -> Lock:
    """Create the run folder and lock it.

    Raises:
        FolderInUseError: another process trains in it.
        UserError: the folder cannot be created.
    """
    path = run_dir / run_files.LOCK
    try:
        with space_errors(path):
            run_dir.mkdir(parents=True, exist_ok=True)
        return acquire(path, f"another training uses {run_dir}; wait for it to end, or choose another run.dir")
    except OSError as error:
        raise UserError(f"cannot write in run.dir={run_dir}: {error.strerror}; choose another run.dir") from None
