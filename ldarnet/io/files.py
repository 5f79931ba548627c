"""Files that exist under their final name only when they are complete."""

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ldarnet.errors import TransientError, UserError

PARTIAL_SUFFIX = ".partial"

_READ_FAULTS = {
    errno.ENOENT: "no such file; check the path",
    errno.ENOTDIR: "no such file; check the path",
    errno.EISDIR: "a folder, not a file; name a file",
    errno.EACCES: "no permission to read it; change its mode or its owner",
    errno.EPERM: "no permission to read it; change its mode or its owner",
}
_LASTING = {*_READ_FAULTS, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}


def may_pass(error: OSError) -> bool:
    """Whether a failure of the operating system may be gone when it is tried again later."""
    return error.errno not in _LASTING


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn a failure of the operating system to read ``path`` inside the block into a `UserError` that names it.

    Raises:
        TransientError: the failure may pass.
        UserError: it will not.
    """
    try:
        yield
    except OSError as error:
        fault = f"cannot be read ({error.strerror or error}); check the path and the disk"
        kind = TransientError if may_pass(error) else UserError
        raise kind(f"{path}: {_READ_FAULTS.get(error.errno or 0, fault)}") from None


def file_size(path: Path) -> int:
    """Bytes of a plain file.

    Raises:
        UserError: there is none, or it is a folder, a pipe or a device.
    """
    with read_errors(path):
        status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path}: {_READ_FAULTS[errno.EISDIR]}")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: not a plain file; write its content to one and name that")
    return status.st_size


class NotWritableError(UserError):
    """The device is full or may not be written to."""


@contextmanager
def space_errors(path: Path) -> Iterator[None]:
    """Turn a full device or a lack of permission inside the block into a `NotWritableError` that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space and run the same command again"
            raise NotWritableError(f"no space left on device while writing {path}; {remedy}") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "name a folder that you may write to"
            raise NotWritableError(f"cannot write {path} ({error.strerror}); {remedy}") from None
        raise


def make_folder(path: Path) -> Path:
    """Make a folder and those that it lies in, unless they are there.

    Raises:
        UserError: it cannot be one.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be used as a folder ({error.strerror}); name another place") from None
    return path


@contextmanager
def atomic_path(final: str | os.PathLike[str], *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path beside ``final``; flush it to disk and rename it when the block succeeds.

    When the block fails the temporary file is removed and whatever stood under ``final`` stays as it was. Of several
    writers of one file, in whatever process or thread, the last to finish wins.

    Args:
        final: the path.
        durable: flush to disk. Without it a crash of the machine may leave an incomplete file: for what is compared
            with a hash when it is read, and can be had again.

    Raises:
        UserError: ``final`` is a folder; raised before the block.
        NotWritableError: the device is full or may not be written to.
    """
    final = Path(final)
    partial = final.with_name(f".{final.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    try:
        with space_errors(final):
            if final.is_dir():
                raise UserError(f"{final}: {_READ_FAULTS[errno.EISDIR]}")
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
    """Give an empty hidden folder beside ``final``; flush its files to disk and rename it when the block succeeds.

    When the block fails, the hidden folder is removed and ``final`` stays as it was. What a killed process left of an
    earlier attempt is removed first. Only one process may write ``final`` at a time.

    Args:
        final: path of the folder; its parents are created.
        replace: remove an existing ``final`` just before the rename.

    Raises:
        NotWritableError: no permission to write, or the device is full.
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
    """Name of the hidden folder in which ``final`` is written."""
    return final.with_name(f".{final.name}{PARTIAL_SUFFIX}")


def read_json(path: Path, remedy: str) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: it cannot be read, or is damaged; then ``remedy`` says what to do.
    """
    try:
        with read_errors(path):
            return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: damaged ({error}); {remedy}") from None


def write_json_atomic(path: str | os.PathLike[str], content: Any, *, indent: int | None = None) -> None:
    """Write ``content`` as JSON: the file is complete or absent.

    Raises:
        UserError: the device is full or may not be written to.
    """
    separators = (",", ":") if indent is None else None
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(content, indent=indent, separators=separators) + "\n", encoding="utf-8")


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_path(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
