"""Blocks: a stretch of one contig packed into bytes without losing a letter, and unpacked again.

A packed block is one zstandard frame around, all little-endian:

    4 bytes   magic ``2BL1``
    3 x u32   bases, letter runs, lower-case runs
    packed    2 bits a base, first base in the lowest bits, ``A C G T`` = 0 1 2 3; bits of other letters mean nothing
    edges     u32, start and stop of each run of one letter that is none of these, as distances to the edge before
    letters   one byte for each of those runs, upper case
    edges     u32, start and stop of each lower-case run, the same way
"""

import struct
from dataclasses import dataclass

import numpy as np
import zstandard

from ldarnet.alphabet import N

BLOCK_SUFFIX = ".2bit.zst"
LETTERS = b"ACGTUNRYKMSWBDHV"
"""The nucleotide codes of IUPAC; every one of them, in either case, comes back as it was written."""

_MAGIC = b"2BL1"
_HEADER = struct.Struct("<4s3I")
_LEVEL = 3


_OTHERS = bytes(0 if chr(byte) in "ACGTacgt" else byte & 0xDF for byte in range(256))
_FOUR_CODES = np.array([[byte >> shift & 3 for shift in (0, 2, 4, 6)] for byte in range(256)], dtype=np.uint8)
_FOUR_IDS = _FOUR_CODES.view(np.uint32)[:, 0]
_ACGT = np.frombuffer(b"ACGT", dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Block:
    """One unpacked frame; positions count from the first base of the block.

    Attributes:
        length: bases.
        packed: (ceil(length / 4),) uint8, four bases a byte.
        runs: (r, 2) int64, start and stop of the runs of one letter other than A, C, G, T.
        letters: (r,) uint8, the upper-case letter of each run.
        lower: (l, 2) int64, start and stop of the lower-case runs.
    """

    length: int
    packed: np.ndarray
    runs: np.ndarray
    letters: np.ndarray
    lower: np.ndarray

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self.packed.nbytes + self.runs.nbytes + self.letters.nbytes + self.lower.nbytes

    def ids(self, start: int, stop: int) -> np.ndarray:
        """Token ids of bases ``start`` to ``stop``, shape (stop - start,), uint8; all but A, C, G, T are N."""
        ids = self._codes(start, stop)
        for run_start, run_stop, _ in self._overlapping(self.runs, start, stop):
            ids[run_start:run_stop] = N
        return ids

    def text(self, start: int, stop: int) -> bytes:
        """The letters of bases ``start`` to ``stop`` exactly as they were packed."""
        text = _ACGT[self._codes(start, stop)]
        for run_start, run_stop, run in self._overlapping(self.runs, start, stop):
            text[run_start:run_stop] = self.letters[run]
        for run_start, run_stop, _ in self._overlapping(self.lower, start, stop):
            text[run_start:run_stop] |= 0x20
        return text.tobytes()

    def _codes(self, start: int, stop: int) -> np.ndarray:
        fours = _FOUR_IDS[self.packed[start // 4 : (stop + 3) // 4]]
        return fours.view(np.uint8)[start % 4 : start % 4 + stop - start]

    @staticmethod
    def _overlapping(runs: np.ndarray, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Start and stop, counted from ``start``, and number of each run that touches the range."""
        if not len(runs):
            return []
        first = int(np.searchsorted(runs[:, 1], start, side="right"))
        last = int(np.searchsorted(runs[:, 0], stop, side="left"))
        edges = np.clip(runs[first:last], start, stop) - start
        return [(a, b, first + i) for i, (a, b) in enumerate(edges.tolist())]


def pack_block(text: bytes) -> tuple[bytes, np.ndarray]:
    """Pack the letters of a contig stretch, in the codes of `LETTERS` and either case.

    Returns:
        The frame, and start and stop of each run of one letter other than A, C, G, T: (r, 2) int64.
    """
    others = np.frombuffer(text.translate(_OTHERS), dtype=np.uint8)
    runs = _runs(others)
    lower = _runs(np.frombuffer(text, dtype=np.uint8) & 0x20)
    parts = (
        _HEADER.pack(_MAGIC, len(text), len(runs), len(lower)),
        _pack_bases(text),
        _edges_to_bytes(runs),
        others[runs[:, 0]].tobytes(),
        _edges_to_bytes(lower),
    )
    return zstandard.ZstdCompressor(level=_LEVEL).compress(b"".join(parts)), runs


def unpack_block(frame: bytes) -> Block:
    """The inverse of `pack_block`.

    Raises:
        ValueError: the bytes are no packed block.
    """
    try:
        payload = zstandard.ZstdDecompressor().decompress(frame)
        magic, length, runs, lower = _HEADER.unpack_from(payload)
    except (zstandard.ZstdError, struct.error) as error:
        raise ValueError(f"not a packed block: {error}") from None
    sizes = (_HEADER.size, (length + 3) // 4, 8 * runs, runs, 8 * lower)
    ends = np.cumsum(sizes).tolist()
    if magic != _MAGIC or len(payload) != ends[-1]:
        raise ValueError("not a packed block: wrong magic or length")
    _, packed, run_edges, letters, lower_edges = (
        payload[end - size : end] for end, size in zip(ends, sizes, strict=True)
    )
    return Block(
        length=length,
        packed=np.frombuffer(packed, dtype=np.uint8),
        runs=_edges_from_bytes(run_edges),
        letters=np.frombuffer(letters, dtype=np.uint8),
        lower=_edges_from_bytes(lower_edges),
    )


def _runs(values: np.ndarray) -> np.ndarray:
    """Start and stop of the runs of one non-zero value, shape (r, 2), int64."""
    if not values.any():
        return np.zeros((0, 2), dtype=np.int64)
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = np.concatenate(([0], changes))
    stops = np.concatenate((changes, [len(values)]))
    return np.stack((starts, stops), axis=1)[values[starts] != 0]


def _pack_bases(text: bytes) -> bytes:
    # Bits 1 and 2 of the ASCII letters A, C, G, T, in either case, are 0, 1, 3, 2; four letters are taken at a time.
    letters = np.frombuffer(text + b"A" * (-len(text) % 4), dtype="<u4")
    codes = letters >> 1 & 0x03030303
    codes ^= codes >> 1 & 0x01010101
    codes |= codes >> 6
    codes |= codes >> 12
    return codes.astype(np.uint8).tobytes()


def _edges_to_bytes(runs: np.ndarray) -> bytes:
    return np.diff(runs.ravel(), prepend=0).astype("<u4").tobytes()


def _edges_from_bytes(data: bytes) -> np.ndarray:
    return np.cumsum(np.frombuffer(data, dtype="<u4"), dtype=np.int64).reshape(-1, 2)
