"""One process at a time in a run folder."""

import fcntl
from pathlib import Path
from typing import IO

from ldarnet.errors import TransientError, UserError
from ldarnet.io.files import space_errors


class FolderInUseError(TransientError):
    """Another process trains in the folder, perhaps one that is about to end."""


def lock(run_dir: Path) -> IO[str]:
    """Hold the run folder until the returned file is closed or the process ends, however it ends.

    Raises:
        FolderInUseError: another process trains in it.
        UserError: the folder cannot be made.
    """
    path = run_dir / ".lock"
    try:
        with space_errors(path):
            run_dir.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
    except OSError as error:
        raise UserError(f"cannot write in run.dir={run_dir}: {error.strerror}; choose another run.dir") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise FolderInUseError(
            f"another training uses {run_dir}; wait for it to end, or choose another run.dir"
        ) from None
    except OSError:
        # Some network file systems have no locks; then two trainings in one folder are the user's to avoid.
        pass
    return file
