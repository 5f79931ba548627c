"""Writing shards: plain tar files of packed blocks with sorted names, each complete or absent."""

import hashlib
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldarnet.data.format import BLOCK_SUFFIX
from ldarnet.data.index import Blocks, Shard
from ldarnet.files import atomic_path, sha256_file

SHARD_PATTERN = "shard-*.tar"


@dataclass(frozen=True, slots=True)
class PackedBlock:
    """A packed block on its way into a shard: contig number, first base, bases, and the frame."""

    contig: int
    start: int
    length: int
    frame: bytes


def write_shards(folder: Path, blocks: Iterable[PackedBlock], shard_size: int) -> tuple[list[Shard], Blocks]:
    """Write blocks, in order of contig and start, into ``shard-00000.tar``, ``shard-00001.tar`` ... of ``folder``.

    A new shard is begun when the next frame would bring the present one above ``shard_size`` bytes of frames. The same
    blocks give the same bytes.

    Returns:
        The shards, and where each block lies in them.

    Raises:
        UserError: the device is full; and whatever ``blocks`` raises. No shard is left half written.
    """
    shards: list[Shard] = []
    rows: list[tuple[int, int, int, int, int, int]] = []
    hashes: list[str] = []
    stream = iter(blocks)
    block = next(stream, None)
    while block is not None:
        path = folder / f"shard-{len(shards):05d}.tar"
        filled = 0
        with atomic_path(path) as partial, tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            while block is not None and (not filled or filled + len(block.frame) <= shard_size):
                offset = _append(tar, f"{block.contig:07d}-{block.start:011d}{BLOCK_SUFFIX}", block.frame)
                rows.append((block.contig, block.start, block.length, len(shards), offset, len(block.frame)))
                hashes.append(hashlib.sha256(block.frame).hexdigest())
                filled += len(block.frame)
                block = next(stream, None)
        shards.append(Shard(path.name, path.stat().st_size, sha256_file(path)))
    columns = np.array(rows, dtype=np.int64).reshape(-1, 6).T
    return shards, Blocks(*columns, sha256=hashes)


def _append(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a member that is the same in every run; return the offset of its first byte."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    offset = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(member, io.BytesIO(data))
    return offset
