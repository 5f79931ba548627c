"""`ldarnet verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from ldarnet.errors import UserError
from ldarnet.io.manifest import Manifest, read_manifest, verify_files
from ldarnet.io.run_files import MANIFEST, WEIGHTS
from ldarnet.printable import printable

HINT = "restore it, or write or download the folder again"


def verify(
    place: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="Shard set (folder or URL), or folder of a run, sweep, checkpoint or exported model."
        ),
    ],
    *,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Worker processes for a shard set. Default: one per core."),
    ] = None,
) -> None:
    """Verify every byte of a shard set, or of all checkpoints and models in a folder.

    In a shard set, index files, shards and blocks are compared with their recorded SHA-256. Contigs are compared with
    the recorded hash of their input sequence. Each mismatch is reported with its location: index file, shard, block
    (with its coordinates on the contig) or contig. A remote set is read twice, bypassing all caches.

    In a run, sweep, checkpoint or exported model, every file listed in a manifest.json is compared with the SHA-256
    listed there. Models written by earlier versions of LDARNet have no manifest.json and are listed as not verified.
    """
    from ldarnet.data.index import INDEX_NAME

    folder = Path(place)
    if not folder.is_dir() or (folder / INDEX_NAME).is_file():
        from sharding.verify import main as verify_shards

        verify_shards(place, workers=workers)
        return
    verify_models(folder)


def verify_models(folder: Path) -> None:
    """Compare the files in a folder and its subfolders with each manifest.json found there, and print the result.

    Raises:
        UserError: files are damaged or missing (one line for each file), or no manifest is found.
    """
    from ldarnet.console import percent_bar

    manifests, found = dict[Path, Manifest](), list[str]()
    for path in _visible(folder, MANIFEST):
        try:
            manifests[path.parent] = read_manifest(path.parent, HINT)
        except UserError as error:
            found.append(str(error))
    unverified = [path for path in _visible(folder, WEIGHTS) if not (path.parent / MANIFEST).is_file()]
    if not manifests and not found:
        reason = (
            f"no {MANIFEST} beside {unverified[0]}; written by an earlier version of LDARNet?"
            if unverified
            else "no hashes"
        )
        raise UserError(
            f"{folder}: nothing to verify ({reason}); choose a shard set, or a checkpoint or model with a {MANIFEST}"
        )
    entries = [entry for manifest in manifests.values() for entry in manifest.files.values()]
    size = sum(entry.size for entry in entries)
    with percent_bar("verifying", size) as advance:
        for path, manifest in manifests.items():
            found += _faults(path, manifest, advance)
    if found:
        raise UserError("\nerror: ".join(found))
    for path in unverified:
        print(f"{printable(str(path))}: not verified, because there is no {MANIFEST} beside it")
    print(f"{printable(str(folder))}: OK ({len(entries):,} files, {size:,} bytes verified)")


def _visible(folder: Path, name: str) -> list[Path]:
    """Find all files of this name in a folder; skip hidden folders, which interrupted writes leave behind."""
    paths = sorted(folder.rglob(name))
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _faults(folder: Path, manifest: Manifest, advance: Callable[[int], None]) -> Iterator[str]:
    for name, entry in manifest.files.items():
        try:
            verify_files(folder, manifest.model_copy(update={"files": {name: entry}}), hint=HINT)
        except UserError as error:
            yield str(error)
        advance(entry.size)
