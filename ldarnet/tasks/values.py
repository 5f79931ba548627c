"""Labels of regression: one or several numbers per row. With several, some may be missing."""

import re

import numpy as np

from ldarnet.tasks.labels import MISSING
from ldarnet.tasks.rows import Records

TARGET = "value"
"""Name of the target in files without column titles."""
MAX_MAGNITUDE = 1e30
"""Values beyond it overflow when they are squared in float32."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?", re.IGNORECASE | re.ASCII)


def find_targets(records: Records) -> list[str]:
    """Names of the targets: the titles of the label columns, or `value` for files without titles."""
    return [title.strip() for title in records.targets] or [TARGET]


def read_values(records: Records, targets: list[str]) -> np.ndarray:
    """Convert the labels of n rows to numbers.

    Returns:
        Values, (n, targets) float64; NaN where a value is missing.

    Raises:
        UserError: all values of a row are missing, or a value is not a finite number or is too large.
    """
    values = np.empty((len(records), len(targets)))
    for row, label in enumerate(records.labels):
        texts = label.split("\t") if len(targets) > 1 else [label]
        for column, (target, given) in enumerate(zip(targets, texts, strict=True)):
            text = given.strip()
            what = "label" if len(targets) == 1 else f"label {target!r}"
            if text in MISSING:
                values[row, column] = np.nan
                continue
            if not _NUMBER.fullmatch(text):
                hint = "write a decimal point instead of a comma" if "," in text else "write it as 1.5 or 1e-3"
                raise records.error(row, f"the {what} {text[:60]!r} is not a number; {hint}")
            values[row, column] = float(text)
            if abs(values[row, column]) > MAX_MAGNITUDE:
                raise records.error(row, f"the {what} {text[:60]!r} is larger than {MAX_MAGNITUDE:g}; rescale it")
        if np.isnan(values[row]).all():
            shown = f" ({label.strip()!r})" if len(targets) == 1 and label.strip() else ""
            what = "label is" if len(targets) == 1 else "labels are all"
            raise records.error(row, f"the {what} missing{shown}; fill it in or remove the row")
    return values
