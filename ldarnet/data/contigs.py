"""The contigs of a shard set, as columns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from ldarnet.errors import UserError
from ldarnet.printable import printable

CONTIG_ROW = np.dtype(
    [("species", "<i8"), ("source", "<i8"), ("length", "<i8"), ("runs", "<i8"), ("sha256", "u1", (32,))]
)
_NEWLINE = ord("\n")


@dataclass(frozen=True, eq=False)
class Contigs:
    """The contigs of a set, in the order of the input.

    Attributes:
        species_names: names of the species, in order of first appearance; "" if unnamed.
        names: (n,) uint8, the contig names (first word of each header) as UTF-8 text, with a newline after each name.
        species: (c,) int64, index into ``species_names``.
        source: (c,) int64, index of the source file.
        length: (c,) int64, number of bases.
        runs: (c,) int64, number of runs of codes other than A, C, G, T.
        sha256: (c, 32) uint8, SHA-256 of the sequence as in the file, without line breaks.
    """

    species_names: list[str]
    names: np.ndarray
    species: np.ndarray
    source: np.ndarray
    length: np.ndarray
    runs: np.ndarray
    sha256: np.ndarray

    @classmethod
    def from_rows(cls, species_names: list[str], names: np.ndarray, rows: np.ndarray) -> Self:
        """Build the columns from a structured array of dtype `CONTIG_ROW`.

        Raises:
            ValueError: the rows have the wrong dtype, or the number of names differs from the number of rows.
        """
        if rows.dtype != CONTIG_ROW or np.count_nonzero(names == _NEWLINE) != len(rows):
            raise ValueError("the table of contigs has the wrong dtype or does not match the contig names")
        return cls(species_names, names, **{name: rows[name] for name in CONTIG_ROW.names or ()})

    def rows(self) -> np.ndarray:
        """Pack the columns into a structured array of dtype `CONTIG_ROW`, one row per contig."""
        rows = np.empty(len(self), dtype=CONTIG_ROW)
        for name in CONTIG_ROW.names or ():
            rows[name] = getattr(self, name)
        return rows

    def __len__(self) -> int:
        return len(self.length)

    def name(self, contig: int) -> str:
        """The full name of a contig: ``species/name``, or ``name`` if the species is unnamed."""
        ends = self._line_ends
        begin = ends[contig - 1] + 1 if contig else 0
        bare = self.names[begin : ends[contig]].tobytes().decode()
        return full_name(self.species_names[self.species[contig]], bare)

    def all_names(self) -> list[str]:
        """The full name of each contig."""
        return [
            full_name(self.species_names[species], bare)
            for species, bare in zip(self.species.tolist(), self.bare_names(), strict=True)
        ]

    def number(self, name: str) -> int:
        """Look up the index of a contig by its full name, or by a bare name that is unique among the species.

        Raises:
            UserError: no contig or several contigs have this name.
        """
        if name in self._numbers:
            return self._numbers[name]
        owners = self._owners.get(name, [])
        if len(owners) == 1:
            return owners[0]
        if owners:
            raise UserError(f"contig {name!r} is in several species; use one of {some_names(map(self.name, owners))}")
        raise UserError(f"no contig {name!r}; use one of {some_names(self._numbers)}")

    def check_interval(self, contig: int, start: int, end: int, place: str) -> None:
        """Check that a 0-based, half-open interval from a file lies within its contig.

        Args:
            contig: index of the contig.
            start: first base.
            end: end of the interval, exclusive.
            place: file and line of the interval, for the error message.

        Raises:
            UserError: the interval extends beyond the contig.
        """
        length = int(self.length[contig])
        if not 0 <= start < end <= length:
            region = f"{printable(self.name(contig))}:{start}-{end}"
            raise UserError(f"{place}: {region} extends beyond the contig (0-{length}); is it from another assembly?")

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Map each full name to the index of its contig."""
        return {name: number for number, name in enumerate(self.all_names())}

    @cached_property
    def _owners(self) -> dict[str, list[int]]:
        """Map each bare name to the indices of the contigs that have it."""
        owners: dict[str, list[int]] = {}
        for number, bare in enumerate(self.bare_names()):
            owners.setdefault(bare, []).append(number)
        return owners

    @cached_property
    def _line_ends(self) -> np.ndarray:
        return np.flatnonzero(self.names == _NEWLINE)

    def bare_names(self) -> list[str]:
        """The name of each contig without its species."""
        return self.names.tobytes().decode().split("\n")[:-1]


def names_as_lines(names: Sequence[str]) -> np.ndarray:
    """Encode names in the format of `Contigs.names`, as (n,) uint8."""
    return np.frombuffer("".join(f"{name}\n" for name in names).encode(), dtype=np.uint8)


def full_name(species: str, name: str) -> str:
    """Full name of a contig, unique across species: ``species/name``, or ``name`` if the species is unnamed."""
    return f"{species}/{name}" if species else name


def some_names(names: Iterable[str], max_names: int = 6) -> str:
    """Join the first ``max_names`` names for a message, and count the rest, as in ``a, b and 3 more``.

    Control characters are escaped.
    """
    every = list(names)
    more = f" and {len(every) - max_names} more" if len(every) > max_names else ""
    return ", ".join(map(printable, every[:max_names])) + more
