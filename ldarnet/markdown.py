"""Markdown tables."""

import math
from collections.abc import Iterable, Sequence


def table(header: Sequence[object], rows: Iterable[Sequence[object]], *, align_right: bool = True) -> str:
    """Format a Markdown table, without a newline at its end.

    Args:
        header: titles of the columns.
        rows: as many cells each; a float is written with four decimals, NaN as a dash, anything else as `str` has it.
        align_right: whether all columns but the first are aligned to the right.
    """
    alignment = ["---", *["---:" if align_right else "---"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in (header, alignment, *rows))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4f}"
    return str(value)
