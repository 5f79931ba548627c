"""Finding the splits of a published task in a folder, in any of the forms that publishers keep them in.

- One file for each split: ``H3/train.fna`` or ``H3/train.parquet`` (Nucleotide Transformer), ``EMP/H3/train.csv``
  (GUE), or any table of that name.
- One file for each sequence, in folders or a zip: ``human_enhancers_cohn/train/positive/7.txt`` (Genomic Benchmarks).
- Coordinates: ``human_enhancers_cohn/train/positive.csv.gz``, with the FASTA file of their assembly.

A folder holds the tasks by their names, and may itself lie in one of the suite's name.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from ldarnet.errors import UserError
from ldarnet.io.files import read_errors
from ldarnet.tasks.coordinates import read_coordinates
from ldarnet.tasks.formats import (
    COMMON,
    FASTA_SUFFIXES,
    PARQUET_SUFFIX,
    TABLE_SUFFIXES,
    Columns,
    Records,
    damage_errors,
    read_records,
)
from ldarnet.tasks.registry import Task

SUBSET = "train_subset"
_STEMS = {"train": ("train", SUBSET), "valid": ("dev", "valid", "validation"), "test": ("test",)}
_SUFFIXES = (PARQUET_SUFFIX, *FASTA_SUFFIXES, *TABLE_SUFFIXES)
_ZIP_FAULTS = (BadZipFile, EOFError, zlib.error, LZMAError, RuntimeError, struct.error, OverflowError)
"""What `zipfile` raises at damaged bytes; RuntimeError also where it has no key, or not the method of packing."""


@dataclass(frozen=True, slots=True)
class Found:
    """The splits of a task as they were found.

    Attributes:
        splits: split (train, valid, test) -> its rows; training is there.
        place: the folder or zip that they are from.
        notes: what a reader of results should know of it.
    """

    splits: dict[str, Records]
    place: Path
    notes: list[str]


def read_task(task: Task, folder: Path, columns: Columns = COMMON) -> Found:
    """Read the splits of a task from a folder.

    Raises:
        UserError: there is no such folder or nothing of the task in it, no training rows, or a file is not as it should
            be.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name the one that holds the files of {task.key} (data.folder)")
    for place in _places(task, folder):
        if place.suffix == ".zip" and place.is_file():
            return Found(_read_zip(task, place), place, [])
        if files := _split_files(place):
            return _read_files(task, place, files, columns)
        if any(place.glob("train/*/*.txt")):
            return Found(_read_many(task, place), place, [])
        if any(place.glob("train/*.csv*")):
            splits, notes = read_coordinates(task, place, folder)
            return Found(splits, place, notes)
    fetch = "leave data.folder null to fetch it" if task.files else f"get it from {task.source}"
    raise UserError(
        f"{folder}: nothing of {task.key} in it: looked for {task.folder}/train.* and the like; name the folder that "
        f"holds {task.folder}, or {fetch}"
    )


def _places(task: Task, folder: Path) -> Iterator[Path]:
    """Where a task may be, the likeliest first."""
    for above in (folder, folder / task.suite, folder / task.short, folder / task.short.upper(), folder / "datasets"):
        for name in (task.folder, *((task.name,) if above != folder else ())):
            yield from (above / name, above / f"{name}_v0.zip", above / name / f"{name}_v0.zip")
    if folder.resolve().as_posix().endswith(f"/{task.folder}"):
        yield folder


def _split_files(place: Path) -> dict[str, Path]:
    """Split -> its file; nothing if there is no such file for training."""
    found = {}
    for split, stems in _STEMS.items():
        candidates = (place / f"{stem}{suffix}{gz}" for stem in stems for suffix in _SUFFIXES for gz in ("", ".gz"))
        if file := next((file for file in candidates if file.is_file()), None):
            found[split] = file
    return found


def _read_files(task: Task, place: Path, files: dict[str, Path], columns: Columns) -> Found:
    if "train" not in files:
        names = ", ".join(file.name for file in files.values())
        raise UserError(f"{place}: no training rows of {task.key}, only {names}; put train.* beside them")
    notes = []
    if files["train"].name.startswith(SUBSET):
        notes.append(f"the training rows are a subset of the published ones, as {files['train'].name} says by its name")
    return Found({split: read_records(file, columns) for split, file in files.items()}, place, notes)


def _read_many(task: Task, place: Path) -> dict[str, Records]:
    """Files ``train/<class>/<name>.txt``, the classes and the names in order."""
    splits = {}
    for split in ("train", "test"):
        paths = sorted(place.glob(f"{split}/*/*.txt"), key=lambda path: (path.parent.name, path.stem))
        texts = []
        for path in paths:
            with read_errors(path):
                texts.append(path.read_bytes())
        splits[split] = _one_file_each(task, place, [path.relative_to(place).as_posix() for path in paths], texts)
    return splits


def _read_zip(task: Task, place: Path) -> dict[str, Records]:
    """The same files in a zip, in any folder."""
    splits = {}
    with damage_errors(place, "cut short, or encrypted", *_ZIP_FAULTS), ZipFile(place) as archive:
        for split in ("train", "test"):
            found = {}
            for member in archive.namelist():
                *_, above, kind, name = ("", "", *member.split("/"))
                if above == split and name.endswith(".txt"):
                    found[kind, name.removesuffix(".txt")] = member
            members = [found[key] for key in sorted(found)]
            splits[split] = members, [archive.read(member) for member in members]
    return {split: _one_file_each(task, place, *files) for split, files in splits.items()}


def _one_file_each(task: Task, place: Path, files: list[str], texts: list[bytes]) -> Records:
    """The class is the folder of a file; one name may come once in each class."""
    classes = [file.split("/")[-2] for file in files]
    names = [
        f"{kind}/{file.rpartition('/')[2].removesuffix('.txt')}" for kind, file in zip(classes, files, strict=True)
    ]
    if missing := [kind for kind in task.classes if kind not in classes]:
        raise UserError(f"{place}: no sequences of the class {missing[0]!r} of {task.key}; get it again, whole")
    return Records(place, "", files, names, [text.decode("utf-8", "replace") for text in texts], classes)
