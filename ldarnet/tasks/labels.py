"""Validate raw rows, and convert them to sequences of A, C, G, T and N, class indices and unique names."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ldarnet.console import format_count
from ldarnet.errors import UserError
from ldarnet.io.tsv import UniqueNames
from ldarnet.printable import printable
from ldarnet.tasks.rows import Records

_BASES = b"ACGTN"
_AMBIGUOUS = b"RYSWKMBDHV"  # IUPAC ambiguity codes
_AS_N = bytes.maketrans(_AMBIGUOUS, b"N" * len(_AMBIGUOUS))
_MAX_DIGITS = 18
"""Maximum number of digits of an integer label, so that it fits into 64 bits."""
_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.\d*|\.?\d+)(e[+-]?\d+)?|nan|inf", re.IGNORECASE)

MAX_CLASSES = 10_000
MISSING = frozenset(("", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "NaN", "nan", "NULL", "null", "None", "NaT"))
"""Spellings of a missing value, as written by R, pandas, spreadsheets and databases."""
_BOOLEANS = ("false", "true")
_CONTROL = frozenset(("Cc", "Cf", "Zl", "Zp"))
"""Unicode categories of characters that are invisible or break lines."""


def clean_sequences(records: Records) -> tuple[list[str], int]:
    """Upper-case all sequences and replace ambiguity codes with N.

    Returns:
        The sequences, and the number of replaced codes.

    Raises:
        UserError: a sequence is empty or contains a character that is not a nucleotide code.
    """
    sequences, ambiguous = [], 0
    for row, text in enumerate(records.sequences):
        if (word := text[:8].strip()) in MISSING and word:  # "NA" and "NaN" consist of nucleotide codes
            raise records.error(row, f"the sequence is missing ({word!r}); fill it in or remove the row")
        sequence, others = clean_sequence(text, partial(records.error, row))
        sequences.append(sequence)
        ambiguous += others
    return sequences, ambiguous


def clean_sequence(text: str, error: Callable[[str], UserError]) -> tuple[str, int]:
    """Upper-case a sequence and replace ambiguity codes with N.

    Args:
        text: sequence as in the file.
        error: builds the exception from a message, and adds the location of the sequence.

    Returns:
        The sequence, and the number of replaced codes.

    Raises:
        UserError: the sequence is empty or contains a character that is not a nucleotide code.
    """
    text = text.strip()
    codes = text.encode("ascii", "replace").upper()
    if not codes:
        raise error("the sequence is empty; add the sequence or remove the entry")
    others = codes.translate(None, _BASES)
    if wrong := others.translate(None, _AMBIGUOUS):
        position = codes.index(wrong[:1])
        hint = "replace U with T" if wrong[:1] == b"U" else "remove it or write N"
        raise error(f"{text[position]!r} at base {position + 1} is not a nucleotide code; {hint}")
    sequence = codes.translate(_AS_N).decode("ascii")
    return text if sequence == text else sequence, len(others)  # share memory


def ambiguity(codes: int) -> list[str]:
    """Return a note on the number of ambiguity codes that were replaced with N, as a list; empty if there are none."""
    return (
        [f"{format_count(codes, 'ambiguity code')} {'was' if codes == 1 else 'were'} replaced with N"] if codes else []
    )


def file_stem(path: Path) -> str:
    """File name without its suffixes."""
    return path.name.partition(".")[0]


def unique_names(records: Records) -> list[str]:
    """Unique name of each row: the name in the file, or else `<file stem>:<row>`. Rows are counted from 1."""
    names, stem = UniqueNames(), printable(" ".join(file_stem(records.path).split()))
    return [names.add(given, f"{stem}:{row}") for row, given in enumerate(records.names, start=1)]


def find_classes(records: Records) -> list[str]:
    """Find the class names in training rows. Integers are sorted by value, other names alphabetically.

    `TRUE`, `True` and `true` are the same class. If a file mixes spellings, the classes are named `false` and `true`.

    Raises:
        UserError: a label is missing, is a number but not an integer, has too many digits, or contains a control
            character; the labels mix integers and names; two names other than true and false differ only in case or
            spacing; or there is only one class, or there are too many.
    """
    kinds: dict[str, int] = {}
    for row, label in enumerate(records.labels):
        if label not in kinds:
            kinds.setdefault(_checked(records, row, label), row)
    if len(kinds) > MAX_CLASSES:
        raise UserError(
            f"{records.path}: more than {MAX_CLASSES:,} different labels; set data.label_column to the class column"
        )
    integers = [label for label in kinds if _INTEGER.fullmatch(label)]
    if integers and len(integers) < len(kinds):
        odd = next(label for label in kinds if label not in integers)
        raise records.error(
            kinds[odd],
            f"the label {odd!r} is a name, but others are integers, such as {integers[0]!r}; use only one kind",
        )
    kinds = _merge_spellings(records, kinds)
    if len(kinds) < 2:
        raise UserError(
            f"{records.path}: all {len(records):,} rows have the label {next(iter(kinds))!r}; a classifier needs at "
            "least two classes; choose another column or file"
        )
    return sorted(kinds, key=int) if integers else sorted(kinds)


def _merge_spellings(records: Records, kinds: dict[str, int]) -> dict[str, int]:
    """Merge spellings of booleans; reject other labels that differ only in case, spacing or Unicode form."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in kinds:
        spellings[unicodedata.normalize("NFC", " ".join(label.split())).casefold()].append(label)
    for plain, (first, *others) in spellings.items():
        if others and plain not in _BOOLEANS:
            raise records.error(
                kinds[others[0]],
                f"the label {others[0]!r} differs from {first!r} ({records.unit} "
                f"{records.locations[kinds[first]]}) only in case or spacing; use one spelling",
            )
    booleans = [label for plain in _BOOLEANS for label in spellings.get(plain, ())]
    cases = {(label.islower(), label.isupper()) for label in booleans}
    if len(cases) < 2 and len(booleans) == len({label.lower() for label in booleans}):
        return kinds
    return {label.lower() if label in booleans else label: row for label, row in kinds.items()}


def number_labels(records: Records, classes: Sequence[str], known_from: str, *, numbers: bool) -> np.ndarray:
    """Convert the labels of n rows to indices into `classes`.

    Args:
        records: raw rows.
        classes: class names.
        known_from: source of `classes`, for error messages.
        numbers: whether a label may be a class index instead of a class name.

    Returns:
        Class indices, (n,) int64.

    Raises:
        UserError: a label is missing or unknown.
    """
    number = {str(label): label for label in range(len(classes))} if numbers else {}
    number |= {_one_spelling(name): label for label, name in enumerate(classes)}
    checked: dict[str, str] = {}
    labels = np.empty(len(records), dtype=np.int64)
    for row, text in enumerate(records.labels):
        if text not in checked:
            checked[text] = _one_spelling(_checked(records, row, text))
        label = checked[text]
        if label not in number:
            label = text.strip()[:60]
            known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise records.error(row, f"unknown label {label!r}: the classes of {known_from} are {known}; fix the label")
        labels[row] = number[label]
    return labels


def _one_spelling(label: str) -> str:
    return label.lower() if label.lower() in _BOOLEANS else label


def _checked(records: Records, row: int, label: str) -> str:
    label = label.strip()
    if label in MISSING:
        value = f" ({label!r})" if label else ""
        raise records.error(row, f"the label is missing{value}; fill it in or remove the row")
    if _NUMBER.fullmatch(label) and not _INTEGER.fullmatch(label):
        raise records.error(row, f"the label {label!r} is not an integer; number the classes from 0, or name them")
    if any(unicodedata.category(char) in _CONTROL for char in label):
        raise records.error(
            row, f"the label {label[:60]!r} contains an invisible character such as a tab or a line break; remove it"
        )
    if not _INTEGER.fullmatch(label):
        return label
    if len(label.lstrip("+-")) > _MAX_DIGITS:
        raise records.error(
            row, f"the label {label[:20]}... has more than {_MAX_DIGITS} digits; number the classes from 0"
        )
    return str(int(label))
