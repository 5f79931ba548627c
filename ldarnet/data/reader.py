"""Reading a shard set at any place: one block is read, checked, and kept packed while there is room."""

import hashlib
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from ldarnet.data.format import Block, unpack_block
from ldarnet.data.index import Index, some_names
from ldarnet.errors import UserError
from ldarnet.files import read_errors

CACHE_BYTES = 256 * 2**20
"""Packed blocks kept in memory by each process: about a billion bases."""


class ShardSet:
    """A folder of shards and its index.

    It holds no open file, so that it can be pickled and used on both sides of a fork.

    Attributes:
        folder: where the shards lie.
        index: the checked index.
        fingerprint: hash of the content; equal content has one fingerprint wherever and however it was built.
        contigs: name -> length in bases.
        splits: name -> bases.
    """

    def __init__(self, folder: Path, index: Index, cache_bytes: int = CACHE_BYTES) -> None:
        """Use an index that is loaded already; `open` is the usual way."""
        self.folder = folder
        self.index = index
        self.fingerprint = index.fingerprint
        self.contigs = {contig.name: contig.length for contig in index.contigs}
        self.splits = {name: int((rows[:, 2] - rows[:, 1]).sum()) for name, rows in index.splits.items()}
        self._number = {contig.name: number for number, contig in enumerate(index.contigs)}
        self._cache_bytes = cache_bytes
        self._cached_bytes = 0
        self._cache: OrderedDict[int, Block] = OrderedDict()

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, cache_bytes: int = CACHE_BYTES) -> "ShardSet":
        """Open a shard set; no shard is read yet.

        Raises:
            UserError: the folder is no shard set, or its index is of a newer format or damaged.
        """
        return cls(Path(folder), Index.load(Path(folder)), cache_bytes)

    def read(self, contig: str | int, start: int, stop: int) -> np.ndarray:
        """Token ids of a stretch, shape (stop - start,), uint8; all letters but A, C, G, T are N.

        Args:
            contig: name or number.
            start: first base, from 0.
            stop: base after the last.

        Raises:
            UserError: no such contig or stretch, or a shard is missing, unreadable, damaged or changed.
        """
        pieces = [block.ids(a, b) for block, a, b in self._pieces(contig, start, stop)]
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, dtype=np.uint8), *pieces])

    def text(self, contig: str | int, start: int, stop: int) -> str:
        """The letters of a stretch exactly as they stand in the input, case and IUPAC codes included.

        Raises:
            UserError: as for `read`.
        """
        return b"".join(block.text(a, b) for block, a, b in self._pieces(contig, start, stop)).decode("ascii")

    def block(self, number: int) -> Block:
        """A block by its number in the index, from memory where it was read not long ago.

        Raises:
            UserError: its shard is missing, unreadable, damaged or changed.
        """
        block = self._cache.get(number)
        if block is not None:
            self._cache.move_to_end(number)
            return block
        block = self.load(number)
        self._cache[number] = block
        self._cached_bytes += block.nbytes
        while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return block

    def load(self, number: int) -> Block:
        """Read a block by its number in the index from its shard, and check it against the index.

        Raises:
            UserError: its shard is missing, unreadable, damaged or changed.
        """
        blocks = self.index.blocks
        path = self.folder / self.index.shards[blocks.shard[number]].name
        size = int(blocks.size[number])
        with read_errors(path):
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                raise UserError(f"{path}: missing; delete {self.folder} and build it again") from None
            try:
                frame = os.pread(descriptor, size, int(blocks.offset[number]))
            finally:
                os.close(descriptor)
        if hashlib.sha256(frame).hexdigest() != blocks.sha256[number]:
            raise UserError(
                f"{path}: {self.index.describe_block(number)} does not match {self.folder / 'index.json'}: "
                f"the shard was damaged or changed; delete {self.folder} and build it again"
            )
        return unpack_block(frame)

    def _pieces(self, contig: str | int, start: int, stop: int) -> list[tuple[Block, int, int]]:
        number = self._contig_number(contig)
        length = self.index.contigs[number].length
        if not 0 <= start <= stop <= length:
            name = self.index.contigs[number].name
            raise UserError(f"{self.folder}: {name} has {length} bases; {start}-{stop} is not within it")
        first, last = self.index.first_block[number : number + 2]
        starts = self.index.blocks.start[first:last]
        pieces = []
        at = first + int(np.searchsorted(starts, start, side="right")) - 1
        while start < stop:
            block, origin = self.block(int(at)), int(self.index.blocks.start[at])
            until = min(stop, origin + block.length)
            pieces.append((block, start - origin, until - origin))
            start, at = until, at + 1
        return pieces

    def _contig_number(self, contig: str | int) -> int:
        if isinstance(contig, str):
            if contig not in self._number:
                raise UserError(f"{self.folder}: no contig {contig!r}; it holds {some_names(self._number)}")
            return self._number[contig]
        return contig

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": OrderedDict(), "_cached_bytes": 0}
