"""Markdown tables."""

import math
import re
from collections.abc import Iterable, Sequence

from ldarnet.printable import printable

_SPECIAL = re.compile(r"[\\`*<>\[\]|~$&]|(?<![^\W_])_|_(?![^\W_])")


def escape(text: str) -> str:
    """Escape a name or other plain text, so that Markdown shows it literally and on one line, in tables too."""
    return _SPECIAL.sub(r"\\\g<0>", printable(text))


def table(header: Sequence[object], rows: Iterable[Sequence[object]], *, align_right: bool = True) -> str:
    """Format a Markdown table, without a trailing newline.

    Args:
        header: column titles.
        rows: rows with one cell per column. Floats get four decimals, NaN becomes a dash; other cells are `str(cell)`.
        align_right: whether to right-align all columns except the first.
    """
    alignment = ["---", *["---:" if align_right else "---"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in (header, alignment, *rows))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4f}"
    return str(value)
