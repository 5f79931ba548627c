"""Tab-separated tables, and unique, printable names for their rows."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from ldarnet.console import format_count
from ldarnet.printable import printable

WriteRow = Callable[[Iterable[Any]], Any]


def tsv_writer(file: TextIO) -> WriteRow:
    """Return a function that writes one row; cells that contain quotation marks or tabs are quoted as in csv."""
    return csv.writer(file, delimiter="\t", lineterminator="\n").writerow


class UniqueNames:
    """Makes names unique and printable, so that each fits into one cell of a table.

    A name that was already used gets a suffix `#2`, `#3`, ... White space is replaced by single spaces, and control
    characters are replaced by visible escapes.

    Attributes:
        was_repeated: whether the last name got a suffix.
    """

    def __init__(self) -> None:
        self._used = set[str]()
        self._repeats: Counter[str] = Counter()
        self.was_repeated = False

    def add(self, given: str, default: str) -> str:
        """Return the unique form of a name, or of `default` if the name is empty."""
        name = base = printable(" ".join(given.split())) or default
        while name in self._used:
            self._repeats[base] += 1
            name = f"{base}#{self._repeats[base] + 1}"
        self.was_repeated = name != base
        self._used.add(name)
        return name


def repeated_names(count: int) -> list[str]:
    """Notes for the user: one note that ``count`` names got a suffix, or no note if ``count`` is 0."""
    return [f"{format_count(count, 'repeated name')} got a suffix (#2, #3, ...)"] if count else []
