"""Sequences and labels of a task: its training, validation and test splits."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np

from ldarnet.console import format_count
from ldarnet.errors import UserError
from ldarnet.io.retry import Retry
from ldarnet.tasks.base_labels import find_base_classes, read_base_labels
from ldarnet.tasks.bed_labels import labels_from_bed, read_sequences
from ldarnet.tasks.downloads import fetch_task
from ldarnet.tasks.formats import read_records
from ldarnet.tasks.labels import ambiguity, clean_sequences, file_stem, find_classes, number_labels, unique_names
from ldarnet.tasks.leakage import canonical, count_duplicates
from ldarnet.tasks.metrics import BASES, CLASSIFICATION, REGRESSION
from ldarnet.tasks.publishers import read_task
from ldarnet.tasks.registry import Task, all_tasks, find_task
from ldarnet.tasks.rows import Columns, Records
from ldarnet.tasks.values import find_targets, read_values

OWN = "own"
"""Suite name of user-provided data."""
GENERIC_NAMES = ("train", "training", "data", "dataset")
"""Names of files, without suffixes, that do not name a task."""

ReadLabels = Callable[[str, Records, list[str]], tuple[np.ndarray, list[str]]]
"""Converts the labels of a split, given its name, rows and cleaned sequences; also returns notes."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Names, sequences and labels of one split.

    Attributes:
        names: n unique names.
        sequences: n upper-case sequences of A, C, G, T and N.
        labels: (n,) int64 class indices; in regression, (n, targets) float64, NaN where missing; of bases, (n,)
            objects, bytes (L,) with class indices each.
    """

    names: list[str]
    sequences: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, index: np.ndarray) -> "Examples":
        """Select rows by integer index, in any order, or by boolean mask."""
        index = np.asarray(index)
        rows = np.flatnonzero(index) if index.dtype == bool else index
        names, sequences = ([column[row] for row in rows] for column in (self.names, self.sequences))
        return Examples(names, sequences, self.labels[rows])


@dataclass(frozen=True, eq=False)
class TaskData:
    """Splits of a task, with their origin.

    Attributes:
        task: name in the registry; for user-provided data, the name that the user chose, or `own_name`.
        suite: nucleotide_transformer, genomic_benchmarks, gue or own.
        classes: class names, by label; in regression, names of the targets.
        train: training rows, in the order of the files.
        test: test rows; None if there is no test split.
        valid: official or user-provided validation rows; None if there are none.
        source: origin and revision of the data, in one line.
        notes: caveats to report with the results, one sentence each.
        task_type: classification, regression or base_classification.
        fingerprint: SHA-256 over the names, sequences and labels of all splits.
    """

    task: str
    suite: str
    classes: list[str]
    train: Examples
    test: Examples | None
    valid: Examples | None
    source: str
    notes: list[str] = field(default_factory=list)
    task_type: str = CLASSIFICATION
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        splits = {"train": self.train, "valid": self.valid, "test": self.test}
        object.__setattr__(self, "fingerprint", _fingerprint(splits))


def _fingerprint(splits: dict[str, Examples | None]) -> str:
    digest = hashlib.sha256()
    for split, rows in splits.items():
        digest.update(f"{split}\n".encode())
        if rows is not None:
            for name, sequence, label in zip(rows.names, rows.sequences, rows.labels.tolist(), strict=True):
                digest.update(f"{name}\t{sequence}\t{label}\n".encode())
    return digest.hexdigest()


def open_task(
    task: str | None,
    *,
    folder: Path | None = None,
    cache: Path | None = None,
    retry: Retry | None = None,
    train: Path | None = None,
    valid: Path | None = None,
    test: Path | None = None,
    sequence_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    name_column: str | None = None,
    task_type: str = CLASSIFICATION,
    bed: Path | None = None,
) -> TaskData:
    """Read a published task, or user-provided data.

    Args:
        task: name of a published task (`H3`, `nt/H3`, `gue/prom_core_all`), or any other name for user-provided data;
            None to name user-provided data after the file `train`, or after its folder if the name of the file says
            nothing (see `own_name`).
        folder: folder with the publisher's files; None to download them.
        cache: download folder; `~/.cache/ldarnet/tasks` if None.
        retry: policy for network faults.
        train: file with user-provided training rows: Parquet, csv, tsv or FASTA with headers `>name|label`. All formats
            except Parquet may be gzipped.
        valid: file with user-provided validation rows, which replace cross-validation.
        test: file with user-provided test rows.
        sequence_column: title of the column with sequences, in tables; None to look for common titles.
        label_column: title of the column with labels; None to look for common titles. Several titles are the targets
            of a regression.
        name_column: title of the column with names; None to look for common titles. Rows without names are numbered.
        task_type: classification, regression or base_classification; published tasks are classification.
        bed: BED file with the classes of bases, for base_classification; the other files then are FASTA or .2bit files
            without labels (see `ldarnet.tasks.bed_labels`).

    Raises:
        UserError: the task does not exist, or a file is missing, damaged or malformed.
    """
    columns = Columns(sequence_column, label_column, name_column)
    if task_type != REGRESSION and not isinstance(label_column, str | None):
        raise UserError(
            f"data.label_column={list(label_column)}: a task of type {task_type} has one label column; choose "
            "one, or set task_type=regression"
        )
    if bed is not None and (task_type != BASES or train is None):
        raise UserError(f"data.bed={bed}: only used with data.train and task_type={BASES}; set both, or data.bed=null")
    if train is not None:
        return _open_own(task, {"train": train, "valid": valid, "test": test}, columns, task_type, bed)
    if task is not None and task_type != CLASSIFICATION:
        raise UserError(
            f"task_type={task_type}: the published task {task} is a classification task; set "
            f"task_type={CLASSIFICATION}, or set data.train to your own data"
        )
    for key, path in (("valid", valid), ("test", test)):
        if path is not None:
            raise UserError(f"data.{key}={path}: data.train is not set; set it to a file with training rows")
    if task is None:
        raise UserError(
            "task is not set; choose a published task (`ldarnet tasks` lists them), or set data.train to your own data"
        )
    return _open_published(find_task(task), folder, cache, retry, columns)


def _open_published(
    task: Task, folder: Path | None, cache: Path | None, retry: Retry | None, columns: Columns
) -> TaskData:
    if folder is None:
        folder, notes = fetch_task(task, cache, retry)
        found = read_task(task, folder, columns)
        source = f"{task.source} at revision {task.revision}"
    else:
        found, notes = read_task(task, folder, columns), []
        source = f"{found.root}, in the format of {task.source}"
    notes += [*found.notes, *_compare_rows(task, found.splits)]
    if task.leakage:
        notes.append(f"known leakage in {task.key}: {task.leakage}")
    read_labels = _class_labels(list(task.classes), task.key, numbers=True)
    return _build(task.name, task.suite, list(task.classes), found.splits, read_labels, source=source, notes=notes)


def own_name(train: Path) -> str:
    """Name of user-provided data: the file name without suffixes, or the folder if the file has a generic name."""
    stem = file_stem(train)
    return (stem.lower() in GENERIC_NAMES and train.absolute().parent.name) or stem


def _open_own(
    name: str | None, files: dict[str, Path | None], columns: Columns, task_type: str, bed: Path | None
) -> TaskData:
    if name is not None and any(name in (task.key, task.name) for task in all_tasks().values()):
        raise UserError(
            f"task={name} is a published task, but data.train is set; choose another name for your own data, or set "
            "data.train=null to use the published data"
        )
    paths = {split: path for split, path in files.items() if path is not None}
    read = partial(read_records, columns=columns) if bed is None else read_sequences
    splits = {split: read(path) for split, path in paths.items()}
    source = f"user-provided data: {', '.join(map(str, paths.values()))}"
    name = name or own_name(paths["train"])
    if bed is not None:
        source += f", {bed}"
    classes, read_labels, notes = _own_labels(splits, task_type, bed)
    return _build(name, OWN, classes, splits, read_labels, source=source, notes=notes, task_type=task_type)


def _own_labels(
    splits: dict[str, Records], task_type: str, bed: Path | None
) -> tuple[list[str], ReadLabels, list[str]]:
    """Names of the classes or targets of user-provided data, the reader of their labels, and notes."""
    train = splits["train"]
    if task_type == REGRESSION:
        targets = find_targets(train)
        return targets, _values(targets, train.path), []
    if bed is not None:
        classes, labels, notes = labels_from_bed(bed, splits)
        return classes, lambda split, records, sequences: (labels[split], []), notes
    if task_type == BASES:
        classes = find_base_classes(train)
        return classes, lambda split, records, sequences: (read_base_labels(records, sequences, classes), []), []
    classes = find_classes(train)
    numbers = [str(number) for number in range(len(classes))]
    named = ", ".join(f"{name}={number}" for number, name in enumerate(classes[:20]))
    notes = [f"class indices: {named}"] if classes != numbers else []
    return classes, _class_labels(classes, str(train.path), numbers=False), notes


def _build(
    name: str,
    suite: str,
    classes: list[str],
    splits: dict[str, Records],
    read_labels: ReadLabels,
    *,
    source: str,
    notes: list[str],
    task_type: str = CLASSIFICATION,
) -> TaskData:
    examples, ambiguous = {}, 0
    for split, records in splits.items():
        sequences, replaced = clean_sequences(records)
        labels, found = read_labels(split, records, sequences)
        examples[split] = Examples(unique_names(records), sequences, labels)
        ambiguous += replaced
        notes += [*_mostly_n(split, sequences), *found]
    notes += [*ambiguity(ambiguous), *_duplicates(examples)]
    train, valid, test = (examples.get(split) for split in ("train", "valid", "test"))
    assert train is not None
    return TaskData(name, suite, classes, train, test, valid, source, notes, task_type)


def _class_labels(classes: list[str], known_from: str, numbers: bool) -> ReadLabels:
    def read(split: str, records: Records, sequences: list[str]) -> tuple[np.ndarray, list[str]]:
        del sequences
        labels = number_labels(records, classes, known_from, numbers=numbers)
        present = np.bincount(labels, minlength=len(classes))
        missing = [kind for kind, count in zip(classes, present, strict=True) if not count]
        if not missing:
            return labels, []
        if split == "train" and len(classes) - len(missing) < 2:
            raise UserError(
                f"{records.path}: all training rows have the same class; add rows of class {missing[0]!r}, "
                "because a classifier needs at least two classes"
            )
        others = f" and {format_count(len(missing) - 1, 'other')}" if missing[1:] else ""
        return labels, [f"no {split} rows of class {missing[0]!r}{others}"]

    return read


def _values(targets: list[str], train: Path) -> ReadLabels:
    def read(split: str, records: Records, sequences: list[str]) -> tuple[np.ndarray, list[str]]:
        del split, sequences
        found = find_targets(records)
        if len(found) != len(targets) or (found != targets and len(targets) > 1):
            raise UserError(
                f"{records.path}: the label columns are {', '.join(map(repr, found))}, but "
                f"{', '.join(map(repr, targets))} in {train}; set data.label_column"
            )
        return read_values(records, targets), []

    return read


def _mostly_n(split: str, sequences: list[str]) -> list[str]:
    count = sum(2 * sequence.count("N") > len(sequence) for sequence in sequences)
    return [f"{count:,} {split} sequences have more than 50% N"] if count else []


def _compare_rows(task: Task, splits: dict[str, Records]) -> list[str]:
    counts = ((split, len(splits[split]) if split in splits else 0, rows) for split, rows in task.rows.items())
    return [
        f"the {split} split has {here:,} rows, the published one {rows:,}"
        for split, here, rows in counts
        if here != rows
    ]


def _duplicates(examples: dict[str, Examples]) -> list[str]:
    keys = _label_keys(examples)

    def pooled(splits: Sequence[str]) -> tuple[list[str], np.ndarray]:
        parts = [examples[split] for split in splits if split in examples]
        labels = np.concatenate([keys[split] for split in splits if split in keys] or [np.empty(0, np.int64)])
        return [sequence for part in parts for sequence in part.sequences], labels

    return count_duplicates(*pooled(("train", "valid")), *pooled(("test",))).sentences()


def _label_keys(examples: dict[str, Examples]) -> dict[str, np.ndarray]:
    """One number per row, equal for rows with equal labels; class indices stay as they are.

    Labels of bases are those of the canonical strand (see `ldarnet.tasks.leakage.canonical`).
    """
    labels = [part.labels for part in examples.values()]
    if labels[0].dtype == object:
        number = defaultdict[bytes, int](count().__next__)
        keys = np.array(
            [
                number[label if canonical(sequence) == sequence else label[::-1]]
                for part in examples.values()
                for sequence, label in zip(part.sequences, part.labels, strict=True)
            ]
        )
    elif labels[0].ndim == 2:
        values = np.concatenate(labels)
        values[np.isnan(values)] = np.inf  # unlike NaN, equal to itself
        keys = np.unique(values, axis=0, return_inverse=True)[1].ravel()
    else:
        keys = np.concatenate(labels)
    return dict(zip(examples, np.split(keys, np.cumsum(list(map(len, labels)))[:-1]), strict=True))
