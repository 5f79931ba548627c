"""Labels of bases: one character per base, which names its class."""

import numpy as np

from ldarnet.errors import UserError
from ldarnet.tasks.labels import MISSING
from ldarnet.tasks.rows import Records

UNLABELED_CHARACTER = "."
UNLABELED = 255
"""Index of bases without a label, which are neither learned nor scored."""
MAX_CLASSES = 64


def find_base_classes(records: Records) -> list[str]:
    """Find the characters that label bases in training rows, sorted.

    Raises:
        UserError: a label is missing, or has a character that is not printable ASCII; or there is only one class, or
            there are too many.
    """
    characters = set[str]()
    for row, label in enumerate(records.labels):
        found = set(_checked(records, row, label))
        if wrong := sorted(char for char in found if not "!" <= char <= "~"):
            raise records.error(
                row, f"the label contains {wrong[0]!r}; write one printable ASCII character per base, such as 0 or 1"
            )
        characters |= found
    classes = sorted(characters - {UNLABELED_CHARACTER})
    if len(classes) < 2:
        raise UserError(
            f"{records.path}: the labels have fewer than two different characters, but a classifier needs at least two "
            "classes, such as 0 and 1; choose another label column or file"
        )
    if len(classes) > MAX_CLASSES:
        raise UserError(
            f"{records.path}: the labels have {len(classes)} different characters, more than {MAX_CLASSES}; set "
            "data.label_column to the column with one label per base"
        )
    return classes


def read_base_labels(records: Records, sequences: list[str], classes: list[str]) -> np.ndarray:
    """Convert the labels of n rows to class indices.

    Returns:
        (n,) objects: for each row, its class indices as bytes (L,); `UNLABELED` for bases labeled `.`.

    Raises:
        UserError: a label is missing, has another length than its sequence, or has a character that is no class.
    """
    table = bytearray([UNLABELED] * 256)
    for number, name in enumerate(classes):
        table[ord(name)] = number
    known = "".join(classes) + UNLABELED_CHARACTER
    labels = np.empty(len(records), dtype=object)
    for row, (text, sequence) in enumerate(zip(records.labels, sequences, strict=True)):
        label = _checked(records, row, text)
        if len(label) != len(sequence):
            raise records.error(
                row,
                f"the label has {len(label):,} characters, but the sequence {len(sequence):,} bases; write one "
                f"character per base, {UNLABELED_CHARACTER!r} where the class is unknown",
            )
        if wrong := label.strip(known) and sorted(set(label) - set(known)):
            raise records.error(
                row,
                f"unknown class {wrong[0]!r} at base {label.index(wrong[0]) + 1}; the classes of training are "
                f"{', '.join(classes)}",
            )
        labels[row] = label.encode("ascii").translate(bytes(table))
    return labels


def _checked(records: Records, row: int, text: str) -> str:
    label = text.strip()
    if label in MISSING:
        value = f" ({label!r})" if label else ""
        raise records.error(row, f"the label is missing{value}; fill it in or remove the row")
    return label
