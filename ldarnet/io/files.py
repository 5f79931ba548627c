"""Atomic writes (a file or folder appears under its final name only when it is complete), checksums and file errors."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ldarnet.errors import TransientError, UserError

PARTIAL_SUFFIX = ".partial"

_READ_ERRORS = {
    errno.ENOENT: "no such file; check the path",
    errno.ENOTDIR: "no such file; check the path",
    errno.EISDIR: "a folder, not a file; choose a file",
    errno.EACCES: "no permission to read it; change its mode or owner",
    errno.EPERM: "no permission to read it; change its mode or owner",
}
_PERMANENT = {*_READ_ERRORS, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}


def is_transient(error: OSError) -> bool:
    """Whether an operating system error may be temporary, so that a later attempt may succeed."""
    return error.errno not in _PERMANENT


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Convert an OSError raised inside the block, which reads ``path``, to a `UserError` that names the path.

    Raises:
        TransientError: the error may be temporary.
        UserError: the error is permanent.
    """
    try:
        yield
    except OSError as error:
        fault = f"cannot be read ({error.strerror or error}); check the path and the disk"
        kind = TransientError if is_transient(error) else UserError
        raise kind(f"{path}: {_READ_ERRORS.get(error.errno or 0, fault)}") from None


def file_size(path: Path) -> int:
    """Size of a regular file in bytes.

    Raises:
        UserError: no such file, or the path is a folder, a pipe or a device.
    """
    with read_errors(path):
        status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path}: {_READ_ERRORS[errno.EISDIR]}")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: not a regular file; copy its content to a regular file")
    return status.st_size


class NotWritableError(UserError):
    """The disk is full, or there is no permission to write."""


@contextmanager
def space_errors(path: Path) -> Iterator[None]:
    """Convert errors inside the block (no space, size limit, no permission) to a `NotWritableError` for ``path``."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = _error_number(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space and run the same command again"
            raise NotWritableError(f"no space left on device while writing {path}; {hint}") from None
        if number == errno.EFBIG:
            hint = "raise the limit (ulimit -f), or write to another file system"
            raise NotWritableError(f"file size limit exceeded while writing {path}; {hint}") from None
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "choose a folder with write permission"
            raise NotWritableError(f"cannot write {path} ({os.strerror(number)}); {hint}") from None
        raise


def _error_number(error: Exception) -> int:
    """Operating system error number of ``error``; 0 if unknown.

    Errors of safetensors and tokenizers contain the number only in their message.
    """
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0


def make_folder(path: Path) -> Path:
    """Create a folder and its parents if they do not exist.

    Raises:
        UserError: the folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be used as a folder ({error.strerror}); choose another path") from None
    return path


@contextmanager
def atomic_path(final: str | os.PathLike[str], *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``final``; when the block succeeds, flush the file to disk and rename it.

    When the block fails, the temporary file is removed and ``final`` is unchanged. If several processes or threads
    write the same file, the last to finish wins.

    Args:
        final: path of the complete file.
        durable: whether to flush to disk. If False, a machine crash may leave an incomplete file; use False only for
            files that are verified when read and can be recreated.

    Raises:
        UserError: ``final`` is a folder, a device or a pipe; raised before the block.
        NotWritableError: the disk is full, or there is no permission to write.
    """
    final = Path(final)
    partial = final.with_name(f".{final.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    try:
        with space_errors(final):
            if final.is_dir():
                raise UserError(f"{final}: {_READ_ERRORS[errno.EISDIR]}")
            if final.exists() and not final.is_file():
                raise UserError(f"{final}: a device or a pipe, not a regular file; choose another path")
            yield partial
            if durable:
                sync_path(partial)
            partial.replace(final)
            if durable:
                sync_path(final.parent)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def staged_folder(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty hidden folder beside ``final``; when the block succeeds, flush its files and rename the folder.

    When the block fails, the hidden folder is removed and ``final`` is unchanged. Files left behind by a killed attempt
    are removed first. Only one process may write ``final`` at a time.

    Args:
        final: path of the folder; its parents are created.
        replace: remove an existing ``final`` just before the rename.

    Raises:
        NotWritableError: no permission to write, or the disk is full.
        OSError: ``final`` exists and is not empty, and ``replace`` is not set.
    """
    staged = staging_path(final)
    shutil.rmtree(staged, ignore_errors=True)
    try:
        with space_errors(final):
            staged.mkdir(parents=True)
            yield staged
            for path in (*staged.rglob("*"), staged):
                sync_path(path)
            if replace:
                shutil.rmtree(final, ignore_errors=True)
            staged.rename(final)
            sync_path(final.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def staging_path(final: Path) -> Path:
    """Path of the hidden folder in which the content of ``final`` is written before the rename."""
    return final.with_name(f".{final.name}{PARTIAL_SUFFIX}")


def write_json_atomic(path: str | os.PathLike[str], content: Any, *, indent: int | None = None) -> None:
    """Write ``content`` as JSON, atomically.

    Raises:
        NotWritableError: the disk is full, or there is no permission to write.
    """
    separators = (",", ":") if indent is None else None
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(content, indent=indent, separators=separators) + "\n", encoding="utf-8")


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_path(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
