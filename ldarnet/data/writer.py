"""Writing shards: plain tar files of packed blocks with sorted names, each complete or absent."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldarnet.data.format import BLOCK_SUFFIX
from ldarnet.data.index import BLOCK_ROW, Shard
from ldarnet.io.files import atomic_path

SHARD_PATTERN = "shard-*.tar"
_SECTOR = 512
_RECORD = 20 * _SECTOR
# Fields of a ustar header between size and check sum, and after it; owner, time and mode are the same in every build.
_BEFORE_SIZE = b"0000644\0" + b"0000000\0" * 2
_TIME = b"00000000000\0"
_AFTER_SUM = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)


@dataclass(frozen=True, slots=True)
class PackedBlock:
    """A packed block on its way into a shard: number of its contig in the part, first base, bases, and the frame."""

    contig: int
    start: int
    length: int
    frame: bytes


def write_shards(
    folder: Path, part: str, blocks: Iterable[PackedBlock], shard_size: int
) -> tuple[list[Shard], np.ndarray]:
    """Write the blocks of one part, in order of contig and start, into ``shard-<part>-0000.tar`` ... of ``folder``.

    A new shard is begun when the next block would bring the present one above ``shard_size`` bases. The same blocks
    give the same bytes.

    Returns:
        The shards, and where each block lies in them: rows of `BLOCK_ROW`, counted from the first contig and shard of
        the part.

    Raises:
        UserError: the device is full; and whatever ``blocks`` raises. No shard is left half written.
    """
    shards: list[Shard] = []
    rows: list[tuple[int | bytes, ...]] = []
    stream = iter(blocks)
    block = next(stream, None)
    while block is not None:
        path = folder / f"shard-{part}-{len(shards):04d}.tar"
        digest, filled, offset = hashlib.sha256(), 0, 0
        with atomic_path(path) as partial, partial.open("wb") as file:
            while block is not None and (not filled or filled + block.length <= shard_size):
                name = f"{part}-{block.contig:07d}-{block.start:012d}{BLOCK_SUFFIX}"
                place = (block.contig, block.start, block.length, len(shards), offset + _SECTOR, len(block.frame))
                rows.append((*place, hashlib.sha256(block.frame).digest()))
                member = _header(name, len(block.frame)) + block.frame + bytes(-len(block.frame) % _SECTOR)
                digest.update(member)
                file.write(member)
                offset += len(member)
                filled += block.length
                block = next(stream, None)
            end = bytes(2 * _SECTOR + (-offset - 2 * _SECTOR) % _RECORD)
            digest.update(end)
            file.write(end)
        shards.append(Shard(path.name, offset + len(end), digest.hexdigest()))
    return shards, _block_rows(rows)


def _block_rows(rows: list[tuple[int | bytes, ...]]) -> np.ndarray:
    table = np.empty(len(rows), dtype=BLOCK_ROW)
    *places, digests = zip(*rows, strict=True)
    for name, column in zip(BLOCK_ROW.names or (), places, strict=False):
        table[name] = column
    table["sha256"] = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)
    return table


def _header(name: str, size: int) -> bytes:
    """What tarfile writes for a plain file, in a tenth of the time: genomes may come in a million of contigs."""
    before = name.encode().ljust(100, b"\0") + _BEFORE_SIZE + b"%011o\0" % size + _TIME
    return before + b"%06o\0 " % (sum(before) + 8 * ord(" ") + sum(_AFTER_SUM)) + _AFTER_SUM
