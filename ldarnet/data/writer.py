"""Write shards, which are tar files of packed blocks, with `webdataset.TarWriter`."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Any, BinaryIO

import numpy as np

from ldarnet.data.blocks import BLOCK_ROW
from ldarnet.data.format import BLOCK_SUFFIX
from ldarnet.data.index_file import Shard
from ldarnet.io.files import atomic_path


@dataclass(frozen=True, slots=True)
class PackedBlock:
    """A packed block to be written into a shard.

    Attributes:
        contig: index of the contig within the part (consecutive contigs of one source file).
        start: first base, 0-based.
        length: number of bases.
        frame: the packed bytes.
    """

    contig: int
    start: int
    length: int
    frame: bytes


def write_shards(
    folder: Path, part: str, blocks: Iterable[PackedBlock], shard_size: int
) -> tuple[list[Shard], np.ndarray]:
    """Write the blocks of one part into shards in ``folder``, named ``shard-<part>-0000.tar`` and so on.

    A part consists of consecutive contigs of one source file. ``blocks`` must be in order of contig and start.

    A new shard starts when the next block would exceed ``shard_size`` bases. The same blocks always give the same
    bytes. A shard gets its final name only when it is complete.

    Returns:
        The shards, and the blocks as a structured array of dtype `BLOCK_ROW`. The contig and shard indices
        in this array count from 0 within the part.

    Raises:
        UserError: the disk is full. Errors raised by ``blocks`` are propagated.
    """
    shards: list[Shard] = []
    rows: list[tuple[int, ...]] = []
    digests: list[bytes] = []
    stream = iter(blocks)
    block = next(stream, None)
    while block is not None:
        path = folder / f"shard-{part}-{len(shards):04d}.tar"
        bases = 0
        with atomic_path(path) as partial, partial.open("wb") as raw:
            file = _HashedFile(raw)
            with _tar_writer(file) as tar:
                while block is not None and (not bases or bases + block.length <= shard_size):
                    offset = tar.tarstream.offset + BLOCKSIZE  # the frame follows its header
                    rows.append((block.contig, block.start, block.length, len(shards), offset, len(block.frame)))
                    digests.append(hashlib.sha256(block.frame).digest())
                    tar.write(
                        {"__key__": f"{part}-{block.contig:07d}-{block.start:012d}", BLOCK_SUFFIX[1:]: block.frame}
                    )
                    tar.tarstream.members.clear()  # otherwise tarfile keeps a record of each member, up to a million
                    bases += block.length
                    block = next(stream, None)
        shards.append(Shard(path.name, file.size, file.digest.hexdigest()))
    table = np.empty(len(rows), dtype=BLOCK_ROW)
    for name, column in zip(BLOCK_ROW.names or (), zip(*rows, strict=True), strict=False):
        table[name] = column
    table["sha256"] = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)
    return shards, table


def _tar_writer(file: "_HashedFile") -> Any:
    """Create a writer that stores no time stamps, owner or group, so that equal members give equal bytes."""
    from webdataset import TarWriter

    stream: Any = file
    return TarWriter(stream, user="", group="", mode=0o644, mtime=0, encoder=False)


class _HashedFile:
    """A file opened for writing that counts and hashes the written bytes."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self.digest.update(data)
        return self._raw.write(data)
