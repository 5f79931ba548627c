"""Checks of untrusted file names: names read from manifests, indexes, receipts, archives and configurations.

A name must be a plain relative path, so that nothing outside its folder is read, written or deleted. For the fields of
a record (:mod:`ldarnet.io.records`), use the types `RelativePath` and `FileName`. For other names, use `inside`.
"""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from ldarnet.errors import UserError

_MAX_COMPONENT_BYTES = 255


def check_relative_path(name: str) -> str:
    """Return ``name`` if it is a plain relative path that means the same on every system.

    Components are separated by ``/``. A component must not be empty, ``.`` or ``..``. It has at most 255 bytes,
    and contains no backslash, colon or control character.

    Raises:
        ValueError: the name is not a plain relative path.
    """
    if not all(_is_component(part) for part in name.split("/")):
        raise ValueError(f"{name[:80]!r} is not a plain relative path inside the folder")
    return name


def check_file_name(name: str) -> str:
    """Return ``name`` if it is a plain file name without a subfolder.

    Raises:
        ValueError: the name is not a plain file name.
    """
    if "/" in name or not _is_component(name):
        raise ValueError(f"{name[:80]!r} is not a plain file name")
    return name


RelativePath = Annotated[str, AfterValidator(check_relative_path)]
FileName = Annotated[str, AfterValidator(check_file_name)]


def inside(folder: Path, name: str, where: str, hint: str) -> Path:
    """Check an untrusted relative path, and join it to a folder.

    Args:
        folder: the folder that must contain the path.
        name: relative path.
        where: file that contains the name, for error messages.
        hint: what to do about a wrong name.

    Raises:
        UserError: the name is not a plain relative path.
    """
    try:
        return folder / check_relative_path(name)
    except ValueError as error:
        raise UserError(f"{where}: {error}; {hint}") from None


def _is_component(part: str) -> bool:
    return (
        part not in ("", ".", "..")
        and len(part.encode(errors="replace")) <= _MAX_COMPONENT_BYTES
        and part.isprintable()
        and not set(part) & set("\\:")
    )
