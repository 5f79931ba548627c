"""Reading UCSC's .2bit files: A, C, G, T, N and soft mask.

Not by py2bit, which reads on where a truncated file has ended, and gives masked N in upper case.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldarnet.errors import UserError
from ldarnet.genome.fasta import Header
from ldarnet.genome.sources import PIECE
from ldarnet.io.files import file_size, read_errors

_SIGNATURE = 0x1A412743
_LOWER = 0x20
# The first base stands in the highest bits.
_FOUR_LETTERS = np.array(
    [[b"TCAG"[byte >> shift & 3] for shift in (6, 4, 2, 0)] for byte in range(256)], dtype=np.uint8
)
_FOURS = _FOUR_LETTERS.view(np.uint32)[:, 0]


@dataclass(frozen=True, slots=True)
class _Contig:
    """One sequence: its name, bases, where its packed bases begin, and (r, 2) runs of N and of lower case."""

    name: str
    length: int
    packed: int
    unknown: np.ndarray
    lower: np.ndarray


class _File:
    """A .2bit file, mapped.

    Attributes:
        names: of its contigs.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        file_size(path)
        with read_errors(path), path.open("rb") as file:
            content = file.read(16)
        for order in "<>":
            if len(content) == 16 and struct.unpack_from(f"{order}I", content)[0] == _SIGNATURE:
                break
        else:
            raise UserError(f"{path}: not a .2bit file, or damaged; fetch it again, or rename it if it is FASTA")
        self._order = order
        self._data = np.memmap(path, dtype=np.uint8, mode="r")
        version, count = struct.unpack_from(f"{order}2I", content, 4)
        self.names: list[str] = []
        self._offsets: list[int] = []
        at, width = 16, 8 if version else 4
        for _ in range(count):
            size = int(self._bytes(at, 1)[0])
            self.names.append(self._bytes(at + 1, size).tobytes().decode("utf-8", "replace"))
            self._offsets.append(int(self._numbers(at + 1 + size, 1, width)[0]))
            at += 1 + size + width

    def length(self, number: int) -> int:
        """Bases of a contig."""
        return int(self._numbers(self._offsets[number], 1)[0])

    def contig(self, number: int) -> _Contig:
        """All but the bases of a contig."""
        at = self._offsets[number] + 4
        unknown, at = self._runs(at)
        lower, at = self._runs(at)
        length = self.length(number)
        self._bytes(at + 4, -(-length // 4))
        return _Contig(self.names[number], length, at + 4, unknown, lower)

    def letters(self, contig: _Contig, start: int, stop: int) -> bytes:
        """Bases ``start`` to ``stop`` of a contig; ``start`` is a multiple of 4."""
        packed = self._bytes(contig.packed + start // 4, -(-(stop - start) // 4))
        letters = _FOURS[packed].view(np.uint8)[: stop - start]
        for begin, end in _within(contig.unknown, start, stop):
            letters[begin:end] = ord("N")
        for begin, end in _within(contig.lower, start, stop):
            letters[begin:end] |= _LOWER
        return letters.tobytes()

    def _runs(self, at: int) -> tuple[np.ndarray, int]:
        count = int(self._numbers(at, 1)[0])
        starts, sizes = self._numbers(at + 4, 2 * count).reshape(2, count).astype(np.int64)
        return np.stack((starts, starts + sizes), axis=1), at + 4 + 8 * count

    def _numbers(self, at: int, count: int, width: int = 4) -> np.ndarray:
        return self._bytes(at, count * width).view(f"{self._order}u{width}")

    def _bytes(self, at: int, count: int) -> np.ndarray:
        if at + count > len(self._data):
            raise UserError(f"{self._path}: ends too early; it is truncated or damaged, fetch it again")
        return self._data[at : at + count]


def find_2bit_parts(path: Path, part_size: int) -> list[tuple[int, int]]:
    """Where parts begin and the last one ends, by number of contig, each beside a 0 in place of a line.

    Each part but the last ends with the first contig end after ``part_size`` letters.

    Raises:
        UserError: it is no .2bit file, or damaged.
    """
    file = _File(path)
    if not file.names:
        raise UserError(f"{path}: empty; name a .2bit file with at least one contig")
    starts, letters = [(0, 0)], 0
    for number in range(len(file.names)):
        if letters >= part_size:
            starts.append((number, 0))
            letters = 0
        letters += file.length(number)
    return [*starts, (len(file.names), 0)]


def read_2bit(path: Path, first: int, last: int) -> Iterator[Header | bytes]:
    """Read contigs ``first`` to ``last`` (that one excluded) as `ldarnet.genome.fasta.parse_fasta` reads FASTA text.

    Raises:
        UserError: it is no .2bit file, or damaged, or a contig has no name or no bases.
    """
    file = _File(path)
    for number in range(first, last):
        contig = file.contig(number)
        if not contig.length or contig.name.split() != [contig.name]:
            raise UserError(f"{path}: contig {contig.name!r}: its name or its bases are missing; leave it out")
        yield Header(contig.name, number, 0, contig.name)
        for start in range(0, contig.length, PIECE):
            yield file.letters(contig, start, min(start + PIECE, contig.length))


def _within(runs: np.ndarray, start: int, stop: int) -> list[list[int]]:
    """What of the runs lies between ``start`` and ``stop``, counted from ``start``."""
    touching = runs[(runs[:, 1] > start) & (runs[:, 0] < stop)]
    return (np.clip(touching, start, stop) - start).tolist()
