"""A task's sequences and labels: training, validation and test rows as every part of fine-tuning reads them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ldarnet.errors import UserError
from ldarnet.io.retry import Retry
from ldarnet.tasks.downloads import fetch_task
from ldarnet.tasks.formats import Columns, Records, read_records
from ldarnet.tasks.labels import ambiguity, clean_sequences, file_stem, find_classes, number_labels, unique_names
from ldarnet.tasks.leakage import count_duplicates
from ldarnet.tasks.publishers import read_task
from ldarnet.tasks.registry import Task, all_tasks, find_task

OWN = "own"
"""The suite of a user's own data."""


@dataclass(frozen=True, eq=False)
class Examples:
    """The rows of one split, n of them.

    Attributes:
        names: n names, each once.
        sequences: n sequences of A, C, G, T and N in upper case.
        labels: shape (n,), int64, 0 to the number of classes less one.
    """

    names: list[str]
    sequences: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, index: np.ndarray) -> "Examples":
        """The rows at ``index``: integers in any order, or a boolean for each row."""
        index = np.asarray(index)
        rows = np.flatnonzero(index) if index.dtype == bool else index
        names, sequences = ([column[row] for row in rows] for column in (self.names, self.sequences))
        return Examples(names, sequences, self.labels[rows])


@dataclass(frozen=True, eq=False)
class TaskData:
    """A task, ready to be learned.

    Attributes:
        task: its name in the registry, or the user's.
        suite: nucleotide_transformer, genomic_benchmarks, gue or own.
        classes: names of the classes, by label.
        train: training rows in the publisher's order.
        test: test rows; None when there are none.
        valid: an official validation split; None when there is none.
        source: one line: where it came from, and its revision.
        notes: what a reader of results should know of the data, a sentence each.
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
    test: Path | None = None,
    sequence_column: str | None = None,
    label_column: str | None = None,
    name_column: str | None = None,
) -> TaskData:
    """Read a published task, or a user's own data.

    Args:
        task: a published task (``H3``, ``nt/H3``, ``gue/prom_core_all``); or a name for one's own data, None for that
            of the training file.
        folder: where the files of the publisher are already; None to fetch them.
        cache: folder for what is fetched; ``~/.cache/ldarnet/tasks`` if None.
        retry: policy for network faults.
        train: one's own training rows: csv, tsv, FASTA with headers ``>name|label``, plain or .gz; or Parquet.
        test: one's own test rows.
        sequence_column: its name in tables; None to find it by common names.
        label_column: likewise.
        name_column: likewise; rows are numbered where there is none.

    Raises:
        UserError: no such task, or a file is missing, damaged or of another form; names the file, the place in it and
            the remedy.
    """
    columns = Columns(sequence_column, label_column, name_column)
    if train is not None:
        return _open_own(task, train, test, columns)
    if test is not None:
        raise UserError(f"data.test={test}: needs data.train, the training rows that belong to it")
    if task is None:
        raise UserError("task: name a published one (`ldarnet tasks` lists them), or your own data with data.train")
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
        source = f"{found.place}, the form of {task.source}"
    notes += [*found.notes, *_compare_rows(task, found.splits)]
    if task.leakage:
        notes.append(f"known of {task.key}: {task.leakage}")
    return _build(task.name, task.suite, list(task.classes), found.splits, source, notes, task.key)


def _open_own(name: str | None, train: Path, test: Path | None, columns: Columns) -> TaskData:
    if name is not None and any(name in (task.key, task.name) for task in all_tasks().values()):
        raise UserError(
            f"task={name}: a published task, but data.train names your own data; give it another name or null"
        )
    splits = {"train": read_records(train, columns)}
    if test is not None:
        splits["test"] = read_records(test, columns)
    classes = find_classes(splits["train"])
    numbers = [str(number) for number in range(len(classes))]
    named = ", ".join(f"{name} is {number}" for number, name in enumerate(classes[:20]))
    notes = [f"the classes are numbered in order: {named}"] if classes != numbers else []
    source = f"own data: {train}" + (f", {test}" if test else "")
    return _build(name or file_stem(train), OWN, classes, splits, source, notes, str(train))


def _build(
    name: str,
    suite: str,
    classes: list[str],
    splits: dict[str, Records],
    source: str,
    notes: list[str],
    known_from: str,
) -> TaskData:
    examples, ambiguous = {}, 0
    for split, records in splits.items():
        sequences, letters = clean_sequences(records)
        labels = number_labels(records, classes, known_from, numbers=suite != OWN)
        examples[split] = Examples(unique_names(records), sequences, labels)
        ambiguous += letters
        if unread := sum(2 * sequence.count("N") > len(sequence) for sequence in sequences):
            notes.append(f"{unread:,} {split} sequences are N in more than half of their bases")
        if missing := [kind for label, kind in enumerate(classes) if label not in labels]:
            if split == "train" and len(classes) - len(missing) < 2:
                raise UserError(f"{records.path}: no row of the class {missing[0]!r}; a classifier needs two classes")
            notes.append(f"no {split} row is of the class {missing[0]!r}" + (" and others" if missing[1:] else ""))
    notes += [*ambiguity(ambiguous), *_duplicates(examples)]
    train, valid, test = (examples.get(split) for split in ("train", "valid", "test"))
    assert train is not None
    return TaskData(name, suite, classes, train, test, valid, source, notes)


def _compare_rows(task: Task, splits: dict[str, Records]) -> list[str]:
    counts = ((split, len(splits[split]) if split in splits else 0, rows) for split, rows in task.rows.items())
    return [f"{split} has {here:,} rows, the published one {rows:,}" for split, here, rows in counts if here != rows]


def _duplicates(examples: dict[str, Examples]) -> list[str]:
    def together(splits: Sequence[str]) -> tuple[list[str], np.ndarray]:
        parts = [examples[split] for split in splits if split in examples]
        labels = np.concatenate([part.labels for part in parts]) if parts else np.empty(0, np.int64)
        return [sequence for part in parts for sequence in part.sequences], labels

    return count_duplicates(*together(("train", "valid")), *together(("test",))).sentences()
