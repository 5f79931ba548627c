"""The blocks of a shard set, as columns."""

from dataclasses import dataclass
from typing import Self

import numpy as np

BLOCK_ROW = np.dtype(
    [
        *((name, "<i8") for name in ("contig", "start", "length", "shard", "offset", "size")),
        ("sha256", "u1", (32,)),
    ]
)


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a set as columns, in order of contig and start.

    A block is an interval of a contig. Its compressed bytes in a shard are its frame.

    Attributes:
        contig: (b,) int64, index of the contig.
        start: (b,) int64, first base in the contig, 0-based.
        length: (b,) int64, number of bases.
        shard: (b,) int64, index of the shard.
        offset: (b,) int64, first byte of the frame in the shard.
        size: (b,) int64, size of the frame in bytes.
        sha256: (b, 32) uint8, SHA-256 of the frame.
    """

    contig: np.ndarray
    start: np.ndarray
    length: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    sha256: np.ndarray

    @classmethod
    def from_rows(cls, rows: np.ndarray) -> Self:
        """Build the columns from a structured array of dtype `BLOCK_ROW`."""
        return cls(**{name: rows[name] for name in BLOCK_ROW.names or ()})

    def rows(self) -> np.ndarray:
        """Pack the columns into a structured array of dtype `BLOCK_ROW`, one row per block."""
        rows = np.empty(len(self), dtype=BLOCK_ROW)
        for name in BLOCK_ROW.names or ():
            rows[name] = getattr(self, name)
        return rows

    def __len__(self) -> int:
        return len(self.contig)
