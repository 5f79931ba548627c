"""Checkpoint folders of which a test writes only some files."""

from pathlib import Path

from ldarnet.io.manifest import write_manifest
from ldarnet.runtime.checkpoint import REQUIRED_FILES


def complete(checkpoint: Path) -> None:
    """Make a folder a complete checkpoint: create the missing files, empty, and write the manifest."""
    for name in REQUIRED_FILES:
        (checkpoint / name).touch()
    write_manifest(checkpoint, step=int(checkpoint.name.removeprefix("step-")))
