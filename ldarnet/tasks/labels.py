"""Validate raw rows and convert them: sequences to A, C, G, T and N, labels to class indices, names to unique names."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ldarnet.console import format_count
from ldarnet.errors import UserError
from ldarnet.tasks.formats import Records

_BASES = b"ACGTN"
_AMBIGUOUS = b"RYSWKMBDHV"  # IUPAC ambiguity codes
_AS_N = bytes.maketrans(_AMBIGUOUS, b"N" * len(_AMBIGUOUS))
_MAX_DIGITS = 18
"""Maximum number of digits of an integer label, so that it fits into 64 bits."""
_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.\d*|\.?\d+)(e[+-]?\d+)?|nan|inf", re.IGNORECASE)


def clean_sequences(records: Records) -> tuple[list[str], int]:
    """Upper-case all sequences and replace ambiguity codes with N.

    Returns:
        The sequences, and the number of replaced codes.

    Raises:
        UserError: a sequence is empty or contains a character that is not a nucleotide code.
    """
    sequences, ambiguous = [], 0
    for row, text in enumerate(records.sequences):
        sequence, others = clean_sequence(text, partial(records.error, row))
        sequences.append(sequence)
        ambiguous += others
    return sequences, ambiguous


def clean_sequence(text: str, error: Callable[[str], UserError]) -> tuple[str, int]:
    """Upper-case a sequence and replace ambiguity codes with N.

    Args:
        text: sequence as in the file.
        error: builds the exception, with the location of the sequence, from a message.

    Returns:
        The sequence, and the number of replaced codes.

    Raises:
        UserError: the sequence is empty or contains a character that is not a nucleotide code.
    """
    text = text.strip()
    codes = text.encode("ascii", "replace").upper()
    if not codes:
        raise error("the sequence is empty; remove it or fill it in")
    others = codes.translate(None, _BASES)
    if wrong := others.translate(None, _AMBIGUOUS):
        position = codes.index(wrong[:1])
        hint = "replace U with T" if wrong[:1] == b"U" else "remove it or write N"
        raise error(f"{text[position]!r} at base {position + 1} is not a nucleotide code; {hint}")
    return codes.translate(_AS_N).decode("ascii"), len(others)


def ambiguity(codes: int) -> list[str]:
    """List with one note on the number of ambiguity codes that were replaced with N; empty if there are none."""
    return (
        [f"{format_count(codes, 'ambiguity code')} {'was' if codes == 1 else 'were'} replaced with N"] if codes else []
    )


def fits_a_table(text: str) -> bool:
    """Whether a name can be written into one cell of a TSV file."""
    return "\t" not in text and len(text.splitlines()) < 2


def file_stem(path: Path) -> str:
    """File name without its suffixes."""
    return path.name.partition(".")[0]


def unique_names(records: Records) -> list[str]:
    """Unique name of each row: the name in the file, else `<file stem>:<row>`, with rows counted from 1.

    Repeated names get a suffix `#2`, `#3`, ... Tabs and line breaks become spaces.
    """
    stem = " ".join(file_stem(records.path).split())
    names: dict[str, None] = {}
    repeats: Counter[str] = Counter()
    for row, given in enumerate(records.names, start=1):
        name = base = " ".join(given.split()) or f"{stem}:{row}"
        while name in names:
            repeats[base] += 1
            name = f"{base}#{repeats[base] + 1}"
        names[name] = None
    return list(names)


def find_classes(records: Records) -> list[str]:
    """Find the class names in training rows: integers in numerical order, other names in alphabetical order.

    Raises:
        UserError: a label is missing, is a non-integer number, is too long or contains a tab; integers and names are
            mixed; or there is only one class.
    """
    kinds: dict[str, int] = {}
    for row, label in enumerate(records.labels):
        kinds.setdefault(_checked(records, row, label), row)
    integers = [label for label in kinds if _INTEGER.fullmatch(label)]
    if integers and len(integers) < len(kinds):
        odd = next(label for label in kinds if label not in integers)
        raise records.error(
            kinds[odd],
            f"the label {odd!r} is a name, but others are integers, such as {integers[0]!r}; use only one kind",
        )
    if len(kinds) < 2:
        raise UserError(
            f"{records.path}: all {len(records):,} rows have the label {next(iter(kinds))!r}; a classifier needs at "
            "least two classes: choose another column or file"
        )
    return sorted(kinds, key=int) if integers else sorted(kinds)


def number_labels(records: Records, classes: Sequence[str], known_from: str, *, numbers: bool) -> np.ndarray:
    """Convert the labels of rows to indices into `classes`, (n,) int64.

    Args:
        records: raw rows.
        classes: class names.
        known_from: where `classes` come from, for error messages.
        numbers: whether a label may be a class index instead of a class name.

    Raises:
        UserError: a label is missing or unknown.
    """
    number = {str(label): label for label in range(len(classes))} if numbers else {}
    number |= {name: label for label, name in enumerate(classes)}
    labels = np.empty(len(records), dtype=np.int64)
    for row, label in enumerate(records.labels):
        label = _checked(records, row, label)
        if label not in number:
            known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise records.error(row, f"unknown label {label!r}: the classes of {known_from} are {known}; fix the label")
        labels[row] = number[label]
    return labels


def _checked(records: Records, row: int, label: str) -> str:
    label = label.strip()
    if not label:
        raise records.error(row, "the label is missing; fill it in or remove the row")
    if _NUMBER.fullmatch(label) and not _INTEGER.fullmatch(label):
        raise records.error(row, f"the label {label!r} is not an integer; number the classes from 0, or name them")
    if not fits_a_table(label):
        raise records.error(row, f"the label {label[:60]!r} contains a tab or a line break; remove it")
    if not _INTEGER.fullmatch(label):
        return label
    if len(label.lstrip("+-")) > _MAX_DIGITS:
        raise records.error(
            row, f"the label {label[:20]}... has more than {_MAX_DIGITS} digits; number the classes from 0"
        )
    return str(int(label))
