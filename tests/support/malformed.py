"""Folders that programs leave behind, with one malformed file, and what their readers make of them."""

import hashlib
import json
import os
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ldarnet.errors import UserError
from ldarnet.io.run_files import MANIFEST
from tests.support.mutations import Build, mutations

PROGRAMS = tuple(str(Path(__file__).parents[2] / name) for name in ("ldarnet", "sharding"))
METADATA = frozenset({".json", ".jsonl", ".yaml", ".tsv"})
MAX_MESSAGE = 1500

Reader = Callable[[Path, Path], Any]
"""Called with a copy of a folder and with an empty folder for output."""


@dataclass(frozen=True)
class Case:
    """A malformed file.

    Attributes:
        file: path relative to the folder.
        name: description.
        build: builds the content of the file.
        hashed: whether a manifest.json has the hash of the original file, and keeps it.
    """

    file: Path
    name: str
    build: Build
    hashed: bool

    def __str__(self) -> str:
        return f"{self.file}{' (hash of the original)' if self.hashed else ''}: {self.name}"


@dataclass(frozen=True)
class Left:
    """A folder that a program left behind.

    Attributes:
        folder: the folder.
        readers: name -> reader.
        suffixes: suffixes of the files to mutate.
        strict: readers that must refuse every file that differs from its hash in a manifest.json.
    """

    folder: Path
    readers: dict[str, Reader]
    suffixes: frozenset[str] = METADATA
    strict: frozenset[str] = field(default=frozenset({"verify"}))

    def files(self) -> list[Path]:
        """Paths of the metadata files, relative to the folder."""
        found = sorted(path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return [path for path in found if path.suffix in self.suffixes]

    def cases(self, outside: Path) -> Iterator[Case]:
        """Yield every malformed variant of every metadata file, in a fixed order.

        A file with a hash in a manifest.json has two: with the hash of the original file, and with its own.

        Args:
            outside: absolute path of a file that no reader may write.
        """
        for file in self.files():
            has_hash = file.name in hashes(self.folder / file.parent)
            for name, build in mutations(self.folder / file, outside):
                yield Case(file, name, build, hashed=False)
                if has_hash:
                    yield Case(file, name, build, hashed=True)


def hashes(folder: Path) -> dict[str, Any]:
    """Entries of the manifest.json of a folder, by file name; empty if there is none."""
    manifest = folder / MANIFEST
    return json.loads(manifest.read_bytes())["files"] if manifest.is_file() else {}


def copy_folder(folder: Path, copy: Path) -> None:
    """Copy a folder; tensors are linked, because they are large and no reader changes them in place."""
    shutil.copytree(folder, copy, symlinks=True, copy_function=_link_tensors)


def problem(left: Left, kind: str, case: Case, area: Path) -> tuple[str, str] | None:
    """Call a reader on a copy of the folder with one malformed file.

    Args:
        left: the folder.
        kind: name of the reader.
        case: the malformed file.
        area: folder for the copy; it is deleted first.

    Returns:
        Kind and description of what went wrong. None if the reader ended normally or with a one-line error.
    """
    copy, out = area / "above" / "parent" / "copy", area / "above" / "out"
    shutil.rmtree(area, ignore_errors=True)
    out.mkdir(parents=True)
    copy_folder(left.folder, copy)
    (copy / case.file).write_bytes(case.build())
    if not case.hashed:
        update_hash(copy / case.file)
    found = _problem(left.readers[kind], copy, out, refuses=case.hashed and kind in left.strict)
    written = [path for path in area.rglob("*") if path.is_file() and not {copy, out} & set(path.parents)]
    return ("writes", f"wrote {written} outside its folder") if written else found


def _problem(reader: Reader, copy: Path, out: Path, *, refuses: bool) -> tuple[str, str] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader(copy, out)
    except UserError as error:
        message = str(error)
        if not message.isprintable() or not 10 < len(message) <= MAX_MESSAGE:
            return "message", f"not one line: {message[:300]!r}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename.startswith(PROGRAMS)] or frames
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
        return f"{type(error).__name__} {place}", f"{type(error).__name__} in {place}: {str(error)[:200]}"
    else:
        if refuses:
            return "accepted", "accepted a file that differs from its hash"
    return None


def _link_tensors(source: str, target: str) -> str:
    if not source.endswith(".safetensors"):
        return shutil.copy2(source, target)
    os.link(source, target)
    return target


def update_hash(file: Path) -> None:
    """Write the hash of a changed file to the manifest.json of its folder, if that lists the file."""
    entries = hashes(file.parent) if file.name != MANIFEST else {}
    if file.name in entries:
        content, manifest = file.read_bytes(), file.with_name(MANIFEST)
        entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        whole = json.loads(manifest.read_bytes())
        manifest.write_text(json.dumps(whole | {"files": entries | {file.name: entry}}))


def change_tensors(file: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change the last tensor of a safetensors file, and its hash in the manifest."""
    tensors = load_file(file)
    name = max(tensors)
    file.unlink()  # it may be a link
    save_file(tensors | {name: change(tensors[name]).contiguous()}, file, metadata={"format": "pt"})
    update_hash(file)
