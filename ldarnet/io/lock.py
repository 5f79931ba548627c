"""Exclusive locks on files and folders (``flock``)."""

import fcntl
import os
from pathlib import Path
from typing import Self

from ldarnet.errors import TransientError
from ldarnet.io.files import space_errors


class FolderInUseError(TransientError):
    """Another process holds the lock."""


class Lock:
    """A held lock; released by `close`, at the end of a ``with`` block, or when the process exits for any reason.

    Attributes:
        descriptor: file descriptor of the locked file.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        """Release the lock; repeated calls have no effect."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def acquire(path: Path, in_use: str | None = None) -> Lock:
    """Lock a folder or a file. A folder must exist; a missing file is created.

    On a file system without lock support, such as some network file systems, the call succeeds without a lock.

    Args:
        path: path of the file or folder.
        in_use: error message if another process holds the lock; None to wait until the lock is released.

    Raises:
        FolderInUseError: another process holds the lock, and ``in_use`` is given.
        NotWritableError: no permission to create the file, or the disk is full.
        OSError: the file cannot be opened for another reason.
    """
    with space_errors(path):
        flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
        lock = Lock(os.open(path, flags, 0o666))
    try:
        fcntl.flock(lock.descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if in_use else 0))
    except BlockingIOError:
        lock.close()
        raise FolderInUseError(in_use or f"{path}: locked by another process") from None
    except OSError:
        pass  # no locks on this file system
    return lock
