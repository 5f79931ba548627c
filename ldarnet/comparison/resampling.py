"""Predictions of fine-tuned models for test rows, and intervals of differences on resampled test rows.

Shapes: R resamples, N test rows, C classes, T targets.
"""

import hashlib
import math
from array import array
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldarnet.comparison.results import FoldScores
from ldarnet.errors import UserError
from ldarnet.finetuning.records import names_of, task_type_of
from ldarnet.finetuning.targets import BaseTargets, ValueTargets
from ldarnet.finetuning.targets.regression import MISSING_VALUE
from ldarnet.io import run_files
from ldarnet.io.files import read_errors
from ldarnet.io.records import MAX_LINE_BYTES
from ldarnet.printable import printable
from ldarnet.tasks.base_labels import UNLABELED
from ldarnet.tasks.metrics import BASES, REGRESSION

HINT = "delete the folder of the fold and fine-tune it again"


class Predictions(NamedTuple):
    """Predictions for the test rows of a fold.

    Attributes:
        rows: SHA-256 of the names of the rows.
        labels: (N,) class indices; in regression, (N, T) float64.
        predicted: (N,) predicted class indices; in regression, (N, T) float64.
        probabilities: (N, C) float64; None unless requested.
        row_of: (N,) row of each label, if rows have several labels, one for each labeled base; else None.
    """

    rows: bytes
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray | None = None
    row_of: np.ndarray | None = None


def read_predictions(fold: FoldScores, *, probabilities: bool = False) -> Predictions | None:
    """Read predictions.tsv of a fold, line by line; None if there is no such file.

    Args:
        fold: the fold.
        probabilities: whether to read class probabilities of sequences as well.

    Raises:
        UserError: the file cannot be read or is malformed, or does not have one line per test row.
    """
    path, content = fold.file.with_name(run_files.PREDICTIONS), fold.content
    if not path.is_file():
        return None
    names, rows = list(map(printable, names_of(content))), content["rows"]["test"]
    if task_type_of(content) == REGRESSION:
        return _read_values(path, names, rows)
    if task_type_of(content) == BASES:
        return _read_bases(path, names, rows)
    return _read_classes(path, names, rows, probabilities)


def _read_classes(path: Path, classes: list[str], rows: int, probabilities: bool) -> Predictions:
    label_of = {name: label for label, name in enumerate(classes)}
    digest, labels, predicted, values = hashlib.sha256(), array("i"), array("i"), array("d")
    wanted = [f"p_{name}" for name in classes] if probabilities else []
    named = "name, label, predicted and p_<class>" if probabilities else "name, label and predicted"
    for line, (name, label, guess, *scored) in _lines(path, ["name", "label", "predicted", *wanted], named, rows):
        try:
            found = [label_of[cell.decode()] for cell in (label, guess)]
            values.extend(map(float, scored))
        except (KeyError, ValueError):  # UnicodeDecodeError is a ValueError
            raise _damaged(path, line) from None
        digest.update(name + b"\n")
        labels.append(found[0])
        predicted.append(found[1])
    matrix = np.frombuffer(values).reshape(len(labels), -1) if probabilities else None
    if matrix is not None and not np.isfinite(matrix).all():
        raise UserError(f"{path}: a probability is not finite; {HINT}")
    return Predictions(digest.digest(), np.frombuffer(labels, np.int32), np.frombuffer(predicted, np.int32), matrix)


def _read_values(path: Path, names: list[str], rows: int) -> Predictions:
    targets = ValueTargets(names)
    wanted = [*targets.label_columns(), *targets.columns()]
    digest, values = hashlib.sha256(), array("d")
    for line, (name, *cells) in _lines(path, ["name", *wanted], f"name, {', '.join(wanted)}", rows):
        try:
            values.extend(math.nan if cell == MISSING_VALUE.encode() else float(cell) for cell in cells)
        except ValueError:
            raise _damaged(path, line) from None
        digest.update(name + b"\n")
    labels, predicted = np.split(np.frombuffer(values).reshape(-1, len(wanted)), 2, axis=1)
    if np.isinf(labels).any() or not np.isfinite(predicted).all():
        raise UserError(f"{path}: a value is not finite; {HINT}")
    return Predictions(digest.digest(), labels, predicted)


def _read_bases(path: Path, classes: list[str], rows: int) -> Predictions | None:
    """Read the labeled bases of all rows; None if no base has a label."""
    targets = BaseTargets(classes)
    digest, pairs, lengths = hashlib.sha256(), array("B"), list[int]()
    for line, (name, *cells) in _lines(path, ["name", "label", "predicted"], "name, label and predicted", rows):
        try:
            label, guess = (targets.parsed(cell.decode()) for cell in cells)
            found = [pair for pair in zip(label, guess, strict=True) if pair[0] != UNLABELED]
        except (KeyError, ValueError):
            raise _damaged(path, line) from None
        pairs.extend(chain.from_iterable(found))
        lengths.append(len(found))
        digest.update(name + b"\n")
    if not pairs:
        return None
    labels, predicted = np.frombuffer(pairs, np.uint8).reshape(-1, 2).T
    return Predictions(digest.digest(), labels, predicted, row_of=np.repeat(np.arange(rows), lengths))


def _lines(path: Path, titles: list[str], named: str, rows: int) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the line number and the cells of the columns `titles` of each row.

    Raises:
        UserError: the file cannot be read, a column or cell is missing, or the number of rows is not `rows`.
    """
    count = 0
    with read_errors(path), path.open("rb") as file:
        header = _cells(file.readline(MAX_LINE_BYTES))
        try:
            columns = [header.index(title.encode()) for title in titles]
        except ValueError:
            raise UserError(f"{path}: does not have the columns {named}; {HINT}") from None
        for count, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), start=1):
            cells = _cells(line)
            if len(cells) <= max(columns):
                raise _damaged(path, count + 1)
            yield count + 1, [cells[column] for column in columns]
    if count != rows or not count:
        raise UserError(f"{path}: {count:,} rows instead of {rows:,}; {HINT}")


def _damaged(path: Path, line: int) -> UserError:
    return UserError(f"{path}: line {line}: damaged; {HINT}")


def _cells(line: bytes) -> list[bytes]:
    return line.rstrip(b"\n").split(b"\t")


def interval_of_difference(ours_R: np.ndarray, theirs_R: np.ndarray) -> tuple[float, float] | None:
    """95% confidence interval (bootstrap percentiles) of the difference between two models on the same resamples.

    Resamples in which a value is undefined (NaN) are skipped; None if there are no others.
    """
    differences_R = ours_R - theirs_R
    defined_R = differences_R[~np.isnan(differences_R)]  # a resample may have rows of a single class
    if not len(defined_R):
        return None
    low, high = np.quantile(defined_R, [0.025, 0.975])
    return float(low), float(high)
