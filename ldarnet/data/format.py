"""Packed blocks: a lossless 2-bit encoding of an interval of one contig, compressed by zstandard.

A block is one zstandard frame with this content, little-endian:

    4 bytes   magic ``2BL1``
    3 x u32   number of bases, number of runs of codes other than A, C, G, T, number of lower-case runs
    packed    2 bits per base, first base in the lowest bits, ``A C G T`` = 0 1 2 3; undefined for all other codes
    edges     u32, start and stop of each run of a code other than A, C, G, T (such as N or R); each number is stored
              as the difference from the number before it
    codes     one byte for each of these runs, the code in upper case
    edges     u32, start and stop of each lower-case (soft-masked) run, also stored as differences
"""

import struct
import threading
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import zstandard

from ldarnet.alphabet import N
from ldarnet.genome.iupac import IUPAC_CODES

BLOCK_SUFFIX = ".2bit.zst"
MAX_BLOCK_BASES = 2**28
"""Maximum length of a block. Whole blocks are read, so this bounds memory; longer contigs have several blocks."""

Bases = TypeVar("Bases", int, np.ndarray)

_MAGIC = b"2BL1"
_HEADER = struct.Struct("<4s3I")
_LEVEL = 1
_PLAIN = b"ACGTacgt"
_COMPRESSOR = threading.local()
_OTHERS = bytes(0 if chr(byte) in "ACGTacgt" else byte & 0xDF for byte in range(256))
_GATHER = np.uint32(1 << 24 | 1 << 18 | 1 << 12 | 1 << 6)
_NO_RUNS = np.zeros((0, 2), dtype=np.int64)
_LOWER_EIGHT = np.uint64(0x2020202020202020)
_FOUR_BASES = np.array(
    [[b"ACGT"[byte >> shift & 3] for shift in (0, 2, 4, 6)] for byte in range(256)], dtype=np.uint8
).view(np.uint32)[:, 0]


@dataclass(frozen=True, slots=True)
class Block:
    """A decompressed block; positions are relative to its first base.

    Attributes:
        length: number of bases.
        packed: (ceil(length / 4),) uint8, four bases per byte.
        runs: (r, 2) int64, start and stop of each run. A run repeats one code other than A, C, G, T.
        codes: (r,) uint8, the code of each run as upper-case ASCII.
        lower: (l, 2) int64, start and stop of each lower-case run.
    """

    length: int
    packed: np.ndarray
    runs: np.ndarray
    codes: np.ndarray
    lower: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the arrays of this block take."""
        return self.packed.nbytes + self.runs.nbytes + self.codes.nbytes + self.lower.nbytes

    def ids(self, start: int, stop: int) -> np.ndarray:
        """Token ids of bases ``start`` to ``stop``, shape (stop - start,), uint8; codes other than A, C, G, T are N."""
        ids = self._codes(start, stop)
        for run_start, run_stop in self.n_runs(start, stop):
            ids[run_start:run_stop] = N
        return ids

    def n_runs(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Runs of codes other than A, C, G, T in bases ``start`` to ``stop``; coordinates are relative to ``start``."""
        return [(run_start, run_stop) for run_start, run_stop, _ in self._overlapping(self.runs, start, stop)]

    def text(self, start: int, stop: int) -> bytes:
        """Text of bases ``start`` to ``stop``, with the original case and IUPAC codes."""
        fours = _FOUR_BASES.take(self.packed[start // 4 : (stop + 3) // 4], mode="clip")  # "clip" is the fastest mode
        text = fours.view(np.uint8)[start % 4 : start % 4 + stop - start]
        for run_start, run_stop, run in self._overlapping(self.runs, start, stop):
            text[run_start:run_stop] = self.codes[run]
        for run_start, run_stop, _ in self._overlapping(self.lower, start, stop):
            text[run_start:run_stop] |= 0x20
        return text.tobytes()

    def _codes(self, start: int, stop: int) -> np.ndarray:
        return unpack_bases(self.packed[start // 4 : (stop + 3) // 4])[start % 4 : start % 4 + stop - start]

    @staticmethod
    def _overlapping(runs: np.ndarray, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Clip runs to [``start``, ``stop``).

        Returns:
            For each run that overlaps the interval: the clipped start and stop of the run, relative to ``start``, and
            the index of the run in ``runs``.
        """
        if not len(runs):
            return []
        first = int(np.searchsorted(runs[:, 1], start, side="right"))
        last = int(np.searchsorted(runs[:, 0], stop, side="left"))
        edges = np.clip(runs[first:last], start, stop) - start
        return [(a, b, first + i) for i, (a, b) in enumerate(edges.tolist())]


def pack_block(text: bytes) -> tuple[bytes, np.ndarray]:
    """Pack the sequence of an interval.

    Args:
        text: the sequence, with any of the codes in `ldarnet.genome.iupac`, in upper or lower case.

    Returns:
        The frame, and the runs as in `Block.runs`.
    """
    runs, codes = _other_runs(text)
    lower = _lower_runs(text)
    parts = (
        _HEADER.pack(_MAGIC, len(text), len(runs), len(lower)),
        _pack_bases(text),
        _edges_to_bytes(runs),
        codes,
        _edges_to_bytes(lower),
    )
    return _compressor().compress(b"".join(parts)), runs


def max_payload_bytes(bases: Bases) -> Bases:
    """Maximum size in bytes of a decompressed block of ``bases`` bases; ``bases`` is an integer or an array."""
    return _HEADER.size + (bases + 3) // 4 + 9 * bases + 8 * ((bases + 1) // 2)


def unpack_block(frame: bytes, max_bases: int = MAX_BLOCK_BASES) -> Block:
    """Decompress a frame of `pack_block`.

    ``max_bases`` limits the memory use, even if the frame declares a larger size.

    Args:
        frame: the frame, possibly from an untrusted source.
        max_bases: maximum length of the block.

    Raises:
        ValueError: the bytes are not a packed block of at most ``max_bases`` bases.
    """
    limit = max_payload_bytes(max_bases)
    try:
        # zstandard allocates the declared size before it decompresses, and never writes more.
        declared = zstandard.get_frame_parameters(frame)
        if declared.content_size > limit:  # also if it is unknown, which is 2^64 - 1
            raise ValueError(
                f"not a packed block: its frame declares more than {limit} bytes, the maximum for {max_bases} bases"
            )
        payload = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
        magic, length, runs, lower = _HEADER.unpack_from(payload)
    except (zstandard.ZstdError, struct.error) as error:
        raise ValueError(f"not a packed block: {error}") from None
    sizes = (_HEADER.size, (length + 3) // 4, 8 * runs, runs, 8 * lower)
    ends = np.cumsum(sizes).tolist()
    if magic != _MAGIC or length > max_bases or len(payload) != ends[-1]:
        raise ValueError("not a packed block: wrong magic number or length")
    _, packed, run_edges, codes, lower_edges = (
        payload[end - size : end] for end, size in zip(ends, sizes, strict=True)
    )
    block = Block(
        length=length,
        packed=np.frombuffer(packed, dtype=np.uint8),
        runs=_edges_from_bytes(run_edges),
        codes=np.frombuffer(codes, dtype=np.uint8),
        lower=_edges_from_bytes(lower_edges),
    )
    if any(len(edges) and edges[-1, 1] > length for edges in (block.runs, block.lower)):
        raise ValueError("not a packed block: a run of codes ends beyond the block")
    if codes.translate(None, IUPAC_CODES):
        raise ValueError("not a packed block: a run has a code that is not a nucleotide code")
    return block


def unpack_bases(packed: np.ndarray) -> np.ndarray:
    """Unpack bases to codes from 0 to 3 (A, C, G, T).

    Args:
        packed: (..., n) uint8, four bases per byte.

    Returns:
        (..., 4 n) uint8.
    """
    # The first product copies the upper half of each byte 12 bits up, the second the upper base of each half 6 bits up.
    codes = packed.astype("<u4")
    codes *= 0x1001
    codes &= 0x000F000F
    codes *= 0x41
    codes &= 0x03030303
    return codes.view(np.uint8)


def _compressor() -> zstandard.ZstdCompressor:
    """Return this thread's compressor, cached because creating one takes longer than packing a short block."""
    if not hasattr(_COMPRESSOR, "zstd"):
        _COMPRESSOR.zstd = zstandard.ZstdCompressor(level=_LEVEL)
    return _COMPRESSOR.zstd


def _other_runs(text: bytes) -> tuple[np.ndarray, bytes]:
    """Find the runs of codes other than A, C, G, T; return them as in `Block.runs`, and the code of each run."""
    # Fast path for the common case, no such codes: the check takes half the time of finding runs.
    if not text.translate(None, _PLAIN):
        return _NO_RUNS, b""
    others = np.frombuffer(text.translate(_OTHERS), dtype=np.uint8)
    runs = _runs(others)
    return runs, others[runs[:, 0]].tobytes()


def _lower_runs(text: bytes) -> np.ndarray:
    eights = np.frombuffer(text, dtype=np.uint64, count=len(text) // 8)
    if text[-8:].isupper() and not (eights & _LOWER_EIGHT).any():
        return _NO_RUNS
    return _runs(np.frombuffer(text, dtype=np.uint8) & 0x20)


def _runs(values: np.ndarray) -> np.ndarray:
    """Start and stop of each run of equal non-zero values, (r, 2) int64."""
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = np.concatenate(([0], changes))
    stops = np.concatenate((changes, [len(values)]))
    return np.stack((starts, stops), axis=1)[values[starts] != 0]


def _pack_bases(text: bytes) -> bytes:
    # Bits 1 and 2 of ASCII A, C, G, T, in either case, are 0, 1, 3, 2. Four bases are processed at a time; the product
    # gathers their codes in its highest byte.
    bases = np.frombuffer(text + b"A" * (-len(text) % 4), dtype="<u4")
    codes = bases >> 1 & 0x03030303
    codes ^= codes >> 1 & 0x01010101
    codes *= _GATHER
    return codes.astype("<u4", copy=False).view(np.uint8)[3::4].tobytes()


def _edges_to_bytes(runs: np.ndarray) -> bytes:
    return np.diff(runs.ravel(), prepend=0).astype("<u4").tobytes() if len(runs) else b""


def _edges_from_bytes(data: bytes) -> np.ndarray:
    return np.cumsum(np.frombuffer(data, dtype="<u4"), dtype=np.int64).reshape(-1, 2)
