"""Read the splits of a published task from a folder, in any of the publishers' layouts.

- One file per split: ``H3/train.fna`` or ``H3/train.parquet`` (Nucleotide Transformer), ``EMP/H3/train.csv``
  (GUE), or the same name with the suffix of any other supported format.
- One file per sequence, in folders or a zip archive: ``human_enhancers_cohn/train/positive/7.txt`` (Genomic
  Benchmarks).
- Coordinates: ``human_enhancers_cohn/train/positive.csv.gz``, with the FASTA file of the assembly.

The files of a task, such as ``H3``, may be in the folder itself or in a subfolder named after the suite.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from ldarnet.errors import UserError
from ldarnet.io.names import inside
from ldarnet.io.records import read_bytes
from ldarnet.tasks.coordinates import read_coordinates
from ldarnet.tasks.damage import damage_errors
from ldarnet.tasks.formats import FASTA_SUFFIXES, PARQUET_SUFFIX, TABLE_SUFFIXES, read_records
from ldarnet.tasks.registry import Task
from ldarnet.tasks.rows import AUTO, MAX_LENGTH, Columns, Records, check_length, check_rows, check_size

SUBSET = "train_subset"
_STEMS = {"train": ("train", SUBSET), "valid": ("dev", "valid", "validation"), "test": ("test",)}
_SUFFIXES = (PARQUET_SUFFIX, *FASTA_SUFFIXES, *TABLE_SUFFIXES)
_ZIP_FAULTS = (BadZipFile, EOFError, zlib.error, LZMAError, RuntimeError, struct.error, OverflowError)
"""Exceptions that `zipfile` raises for damaged archives; RuntimeError also for encryption or unknown compression."""


@dataclass(frozen=True, slots=True)
class TaskSplits:
    """Splits of a task as read, before validation.

    Attributes:
        splits: split (train, valid, test) -> rows; `train` is always present.
        root: folder or zip archive that the splits were read from.
        notes: caveats to report with the results, one sentence each.
    """

    splits: dict[str, Records]
    root: Path
    notes: list[str]


def read_task(task: Task, folder: Path, columns: Columns = AUTO) -> TaskSplits:
    """Read the splits of a task from a folder.

    Raises:
        UserError: the folder is missing or contains no training rows of the task, or a file is damaged or malformed.
    """
    if not folder.is_dir():
        raise UserError(f"data.folder={folder}: no such folder; choose the one with the files of {task.key}")
    for root in _candidates(task, folder):
        if root.suffix == ".zip" and root.is_file():
            return TaskSplits(_read_zip(task, root), root, [])
        if files := _split_files(root):
            return _read_files(task, root, files, columns)
        if any(root.glob("train/*/*.txt")):
            return TaskSplits(_read_many(task, root), root, [])
        if any(root.glob("train/*.csv*")):
            splits, notes = read_coordinates(task, root, folder)
            return TaskSplits(splits, root, notes)
    fetch = "set data.folder=null to download it" if task.files else f"download it from {task.source}"
    raise UserError(
        f"data.folder={folder}: no files for {task.key} (expected {task.folder}/train.* or similar); choose the "
        f"folder that contains {task.folder}, or {fetch}"
    )


def _candidates(task: Task, folder: Path) -> Iterator[Path]:
    """Yield the paths where the files of a task may be, most likely first."""
    for above in (folder, folder / task.suite, folder / task.short, folder / task.short.upper(), folder / "datasets"):
        for name in (task.folder, *((task.name,) if above != folder else ())):
            yield from (above / name, above / f"{name}_v0.zip", above / name / f"{name}_v0.zip")
    if folder.resolve().as_posix().endswith(f"/{task.folder}"):
        yield folder


def _split_files(root: Path) -> dict[str, Path]:
    """Find the file of each split; a split without a file is omitted."""
    found = {}
    for split, stems in _STEMS.items():
        candidates = (root / f"{stem}{suffix}{gz}" for stem in stems for suffix in _SUFFIXES for gz in ("", ".gz"))
        if file := next((file for file in candidates if file.is_file()), None):
            found[split] = file
    return found


def _read_files(task: Task, root: Path, files: dict[str, Path], columns: Columns) -> TaskSplits:
    if "train" not in files:
        names = ", ".join(file.name for file in files.values())
        raise UserError(f"{root}: no training rows of {task.key}, only {names}; add train.* with the training rows")
    notes = []
    if files["train"].name.startswith(SUBSET):
        notes.append(f"trained on a subset of the published rows: {files['train'].name}")
    return TaskSplits({split: read_records(file, columns) for split, file in files.items()}, root, notes)


def _read_many(task: Task, root: Path) -> dict[str, Records]:
    """Read files `train/<class>/<name>.txt` and `test/<class>/<name>.txt`, sorted by class and name."""
    splits = {}
    for split in ("train", "test"):
        paths = sorted(root.glob(f"{split}/*/*.txt"), key=lambda path: (path.parent.name, path.stem))
        check_rows(root, len(paths))
        texts, size = list[bytes](), 0
        for path in paths:
            texts.append(read_bytes(path, hint="replace it with one sequence", max_bytes=MAX_LENGTH))
            size += len(texts[-1])
            check_size(root, size)
        splits[split] = _one_file_each(task, root, [path.relative_to(root).as_posix() for path in paths], texts)
    return splits


def _read_zip(task: Task, root: Path) -> dict[str, Records]:
    """Read `train/<class>/<name>.txt` and `test/<class>/<name>.txt` from any folder of a zip archive.

    Nothing is extracted to disk. The size of each file, as stated in the archive, is checked before it is read;
    `zipfile` never reads more bytes than stated.
    """
    splits, size = {}, 0
    with damage_errors(root, "truncated or encrypted", *_ZIP_FAULTS), ZipFile(root) as archive:
        check_rows(root, len(archive.infolist()))
        for split in ("train", "test"):
            found = {}
            for member in archive.infolist():
                *_, above, kind, name = ("", "", *member.filename.split("/"))
                if above != split or not name.endswith(".txt"):
                    continue
                inside(root, member.filename, str(root), "download it again")
                key = kind, name.removesuffix(".txt")
                if key in found:
                    raise UserError(f"{root}: two files named {split}/{kind}/{name}; remove one of them")
                if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                    raise UserError(f"{root}: {member.filename}: unsupported compression; use deflate")
                size += member.file_size
                check_length(f"{root}: {member.filename}", member.file_size, "sequence")
                check_size(root, size)
                found[key] = member
            members = [found[key] for key in sorted(found)]
            splits[split] = [member.filename for member in members], [archive.read(member) for member in members]
    return {split: _one_file_each(task, root, *files) for split, files in splits.items()}


def _one_file_each(task: Task, root: Path, files: list[str], texts: list[bytes]) -> Records:
    """Build records from files with one sequence each. The folder of a file is its class."""
    classes = [file.split("/")[-2] for file in files]
    names = [
        f"{kind}/{file.rpartition('/')[2].removesuffix('.txt')}" for kind, file in zip(classes, files, strict=True)
    ]
    if missing := [kind for kind in task.classes if kind not in classes]:
        raise UserError(f"{root}: no sequences of class {missing[0]!r} of {task.key}; download the task again")
    return Records(root, "", files, names, [text.decode("utf-8-sig", "replace") for text in texts], classes)
