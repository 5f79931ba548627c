"""Manifests: the size and SHA-256 of each file of a checkpoint, an export or a classifier.

``manifest.json`` is written last: a folder with a valid manifest is complete.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ldarnet.errors import UserError
from ldarnet.io.files import sha256_file, sync_path, write_json_atomic
from ldarnet.io.names import FileName
from ldarnet.io.records import Count, RunId, Sha256, read_record
from ldarnet.io.run_files import MANIFEST

FORMAT_VERSION = 2
MAX_MANIFEST_BYTES = 16 * 2**20


class ManifestEntry(BaseModel):
    """Size in bytes and SHA-256 of a file."""

    model_config = ConfigDict(frozen=True)

    size: Count
    sha256: Sha256


class Manifest(BaseModel):
    """Content of ``manifest.json``.

    Attributes:
        format: version of the folder format.
        files: entry of each file, by file name; not empty.
        step: completed optimizer steps; None for models without a training state.
        run_id: identifies the run that wrote the folder, so that only this run deletes it; None if unknown.
    """

    model_config = ConfigDict(frozen=True)

    format: Count = FORMAT_VERSION
    files: Annotated[dict[FileName, ManifestEntry], Field(min_length=1)]
    step: Count | None = None
    run_id: RunId | None = None


def write_manifest(folder: Path, *, step: int | None = None, run_id: str | None = None) -> None:
    """Flush the files of a folder to disk, then write their manifest. Files in subfolders are not included."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    for file in files:
        sync_path(file)
    entries = {file.name: ManifestEntry(size=file.stat().st_size, sha256=sha256_file(file)) for file in files}
    manifest = Manifest(files=entries, step=step, run_id=run_id)
    write_json_atomic(folder / MANIFEST, manifest.model_dump(exclude_none=True), indent=2)


def read_manifest(folder: Path, hint: str) -> Manifest:
    """Read the manifest of a folder.

    Args:
        folder: the folder.
        hint: what to do about a damaged manifest.

    Raises:
        UserError: the manifest is missing or malformed, or names a file outside the folder.
    """
    return read_record(folder / MANIFEST, Manifest, hint=hint, max_bytes=MAX_MANIFEST_BYTES)


def verify_files(folder: Path, manifest: Manifest, *, hint: str, where: str | None = None) -> None:
    """Compare every file that a manifest lists with the listed size and SHA-256.

    Args:
        folder: the folder.
        manifest: the manifest of the folder.
        hint: what to do about a damaged file.
        where: path or URL to name in errors; by default, the folder.

    Raises:
        UserError: a file is missing, or its size or SHA-256 differs.
    """
    where = where or str(folder)
    for name, entry in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise UserError(f"{where}/{name}: file is missing; {hint}")
        if file.stat().st_size != entry.size or sha256_file(file) != entry.sha256:
            raise UserError(f"{where}/{name}: SHA-256 differs from {MANIFEST}, so the file is damaged; {hint}")


def check_complete(manifest: Manifest, required: Collection[str], *, where: str, hint: str) -> None:
    """Check that a manifest lists every required file.

    Raises:
        UserError: the manifest does not list a required file.
    """
    if missing := sorted(set(required) - manifest.files.keys()):
        raise UserError(f"{where}: incomplete, because {MANIFEST} does not list {missing[0]}; {hint}")
