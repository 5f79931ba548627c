"""Predictions of fine-tuned models for test rows, and intervals of differences on resampled test rows.

Shapes: R resamples, N test rows, C classes, T targets.
"""

import hashlib
from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldarnet.comparison.results import FoldScores
from ldarnet.errors import UserError
from ldarnet.finetuning.records import FoldRecord, task_type_of
from ldarnet.finetuning.targets import targets_of
from ldarnet.io import run_files
from ldarnet.io.files import read_errors
from ldarnet.io.records import MAX_LINE_BYTES
from ldarnet.printable import printable
from ldarnet.tasks.metrics import BASES, REGRESSION

HINT = "delete the folder of the fold and fine-tune it again"


class Predictions(NamedTuple):
    """Predictions for the test rows of a fold.

    Attributes:
        rows: SHA-256 of the names of the rows.
        labels: (N,) int32 class indices; in regression, (N, T) float64.
        predicted: (N,) int32 predicted class indices; in regression, (N, T) float64.
        probabilities: (N, C) float64; None unless requested.
    """

    rows: bytes
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray | None = None


def read_predictions(fold: FoldScores, *, probabilities: bool = False) -> Predictions | None:
    """Read predictions.tsv of a fold, line by line; None if there is no such file.

    Args:
        fold: the fold.
        probabilities: whether to read class probabilities as well.

    Raises:
        UserError: the file cannot be read or is malformed, or does not have one line per test row.
    """
    path, content = fold.file.with_name(run_files.PREDICTIONS), fold.content
    if not path.is_file():
        return None
    if task_type_of(content) == BASES:
        return None  # rows of different lengths
    if task_type_of(content) == REGRESSION:
        return _read_values(path, content)
    label_of = {printable(name): label for label, name in enumerate(content["classes"])}
    names, labels, predicted, values = hashlib.sha256(), array("i"), array("i"), array("d")
    wanted = [f"p_{name}".encode() for name in label_of] if probabilities else []
    with read_errors(path), path.open("rb") as file:
        columns = _cells(file.readline(MAX_LINE_BYTES))
        try:
            name, label, guess, *scored = map(columns.index, (b"name", b"label", b"predicted", *wanted))
        except ValueError:
            named = "name, label, predicted and p_<class>" if probabilities else "name, label and predicted"
            raise UserError(f"{path}: does not have the columns {named}; {HINT}") from None
        for index, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), start=2):
            cells = _cells(line)
            try:
                classes = [label_of[cells[column].decode()] for column in (label, guess)]
                values.extend(float(cells[column]) for column in scored)
            except (IndexError, KeyError, ValueError):  # UnicodeDecodeError is a ValueError
                raise UserError(f"{path}: line {index}: damaged; {HINT}") from None
            names.update(cells[name] + b"\n")
            labels.append(classes[0])
            predicted.append(classes[1])
    if len(labels) != content["rows"]["test"] or not labels:
        raise UserError(f"{path}: {len(labels):,} rows instead of {content['rows']['test']:,}; {HINT}")
    found = np.frombuffer(values).reshape(len(labels), -1) if probabilities else None
    if found is not None and not np.isfinite(found).all():
        raise UserError(f"{path}: a probability is not finite; {HINT}")
    return Predictions(names.digest(), np.frombuffer(labels, np.int32), np.frombuffer(predicted, np.int32), found)


def _read_values(path: Path, content: FoldRecord) -> Predictions:
    """Read predictions.tsv of a regression."""
    targets = targets_of(REGRESSION, list(map(printable, content["classes"])))
    wanted = [*targets.label_columns(), *targets.columns()]
    names, values = hashlib.sha256(), array("d")
    with read_errors(path), path.open("rb") as file:
        columns = _cells(file.readline(MAX_LINE_BYTES))
        try:
            name, *numbers = map(columns.index, (b"name", *(title.encode() for title in wanted)))
        except ValueError:
            raise UserError(f"{path}: does not have the columns name, {', '.join(wanted)}; {HINT}") from None
        for index, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), start=2):
            cells = _cells(line)
            try:
                values.extend(float(cells[column]) for column in numbers)
                names.update(cells[name] + b"\n")
            except (IndexError, ValueError):
                raise UserError(f"{path}: line {index}: damaged; {HINT}") from None
    found = np.frombuffer(values).reshape(-1, len(wanted))
    if len(found) != content["rows"]["test"] or not len(found):
        raise UserError(f"{path}: {len(found):,} rows instead of {content['rows']['test']:,}; {HINT}")
    if not np.isfinite(found).all():
        raise UserError(f"{path}: a value is not finite; {HINT}")
    labels, predicted = np.split(found, 2, axis=1)
    return Predictions(names.digest(), labels, predicted)


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
