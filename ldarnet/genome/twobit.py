"""Reader for UCSC .2bit files, which store A, C, G, T, N and soft-masking.

py2bit is not used: it reads past the end of truncated files, and returns soft-masked N in upper case.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldarnet.errors import UserError
from ldarnet.genome.sources import PIECE, Header
from ldarnet.io.files import file_size, read_errors

_SIGNATURE = 0x1A412743
_LOWER = 0x20
# The first base is in the highest bits.
_FOUR_BASES = np.array([[b"TCAG"[byte >> shift & 3] for shift in (6, 4, 2, 0)] for byte in range(256)], dtype=np.uint8)
_FOURS = _FOUR_BASES.view(np.uint32)[:, 0]


@dataclass(frozen=True, slots=True)
class _TwoBitContig:
    """Metadata of a contig.

    Attributes:
        name: contig name.
        length: number of bases.
        packed: offset of the packed bases in the file, in bytes.
        unknown: (r, 2) int64, start and stop of each run of N.
        lower: (l, 2) int64, start and stop of each soft-masked run.
    """

    name: str
    length: int
    packed: int
    unknown: np.ndarray
    lower: np.ndarray


class _TwoBitFile:
    """A memory-mapped .2bit file.

    Attributes:
        names: contig names.
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
            raise UserError(f"{path}: not a .2bit file, or damaged; download it again")
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

    def contig(self, number: int) -> _TwoBitContig:
        """Read the metadata of the contig at index ``number``."""
        at = self._offsets[number]
        length = int(self._numbers(at, 1)[0])
        unknown, at = self._runs(at + 4)
        lower, at = self._runs(at)
        self._bytes(at + 4, -(-length // 4))
        return _TwoBitContig(self.names[number], length, at + 4, unknown, lower)

    def sequence(self, contig: _TwoBitContig, start: int, stop: int) -> bytes:
        """Bases [``start``, ``stop``) of a contig; ``start`` must be a multiple of 4."""
        packed = self._bytes(contig.packed + start // 4, -(-(stop - start) // 4))
        codes = _FOURS[packed].view(np.uint8)[: stop - start]
        for begin, end in _within(contig.unknown, start, stop):
            codes[begin:end] = ord("N")
        for begin, end in _within(contig.lower, start, stop):
            codes[begin:end] |= _LOWER
        return codes.tobytes()

    def _runs(self, at: int) -> tuple[np.ndarray, int]:
        count = int(self._numbers(at, 1)[0])
        starts, sizes = self._numbers(at + 4, 2 * count).reshape(2, count).astype(np.int64)
        return np.stack((starts, starts + sizes), axis=1), at + 4 + 8 * count

    def _numbers(self, at: int, count: int, width: int = 4) -> np.ndarray:
        return self._bytes(at, count * width).view(f"{self._order}u{width}")

    def _bytes(self, at: int, count: int) -> np.ndarray:
        if at + count > len(self._data):
            raise UserError(f"{self._path}: truncated or damaged; download it again")
        return self._data[at : at + count]


def read_2bit(path: Path) -> Iterator[Header | bytes]:
    """Yield the contigs of a .2bit file, in the same format as `ldarnet.genome.fasta.read_fasta`.

    Raises:
        UserError: the file is not a .2bit file, is damaged or empty, or a contig has no bases or an invalid name.
    """
    file = _TwoBitFile(path)
    if not file.names:
        raise UserError(f"{path}: empty; choose a .2bit file with at least one contig")
    for number in range(len(file.names)):
        contig = file.contig(number)
        if contig.name.split() != [contig.name]:
            raise UserError(f"{path}: contig name {contig.name!r} is empty or contains whitespace; rename the contig")
        if not contig.length:
            raise UserError(f"{path}: contig {contig.name!r} has no bases; remove it")
        yield Header(contig.name, 0, contig.name)
        for start in range(0, contig.length, PIECE):
            yield file.sequence(contig, start, min(start + PIECE, contig.length))


def _within(runs: np.ndarray, start: int, stop: int) -> list[list[int]]:
    """Clip runs to [``start``, ``stop``); the returned coordinates are relative to ``start``."""
    touching = runs[(runs[:, 1] > start) & (runs[:, 0] < stop)]
    return (np.clip(touching, start, stop) - start).tolist()
