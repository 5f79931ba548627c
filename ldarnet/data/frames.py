"""The packed blocks of a set, each compared with its SHA-256: from the shards, or, if remote, through a cache."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from ldarnet.data.cache import DiskCache
from ldarnet.data.index import INDEX_NAME, Index
from ldarnet.data.prefetch import AHEAD_BYTES, Ahead
from ldarnet.errors import UserError
from ldarnet.io.storage import DamagedError, MissingError, Storage, remedy

REQUEST_BYTES = 8 * 2**20
"""The longest range that is asked for at once when several blocks that lie together are wanted."""

_GAP = 1024  # between the frames of neighbours in a shard: padding and a header


class Frames:
    """Frames of the blocks of a set, by their number in the index. It can be pickled and used on both sides of a fork.

    Attributes:
        storage: where the shards lie.
    """

    def __init__(self, index: Index, storage: Storage, disk: DiskCache | None = None) -> None:
        """Read from ``storage``; keep what was read in ``disk`` if it is remote."""
        self._index = index
        self.storage = storage
        self._disk = disk
        self._ahead: Ahead | None = None

    def read(self, block: int) -> bytes:
        """A frame, compared with its hash. What does not fit is read once more, past caches and open files.

        Raises:
            DamagedError: the shard is missing, or the bytes are not those that were indexed.
            UserError: the shard cannot be read.
        """
        frame = self._cached(block) if self.storage.remote else None
        return self._fetch(block) if frame is None else frame

    def prefetch(self, blocks: Sequence[int]) -> None:
        """Begin to fetch blocks of a remote set in a few threads, the first ones first.

        What is more than `AHEAD_BYTES`, with what is still on its way, is left out. Errors show when a block is read.
        """
        ahead, sizes = self._here(), self._index.blocks.size
        room, wanted = AHEAD_BYTES - ahead.bytes, {}
        for block in blocks:
            if block not in wanted and block not in ahead and not self._is_cached(block):
                room -= int(sizes[block])
                if room < 0:
                    break
                wanted[block] = len(wanted)
        for run in sorted(self._runs(sorted(wanted)), key=lambda run: min(wanted[block] for block in run)):
            ahead.begin(run, int(sizes[run].sum()), lambda run=run: self._fetch_run(run, ahead))

    def _runs(self, blocks: Sequence[int]) -> Iterator[list[int]]:
        """Blocks, in order, that lie together in a shard and can be had in one request."""
        shard, offset, size = self._index.blocks.shard, self._index.blocks.offset, self._index.blocks.size
        run: list[int] = []
        for block in blocks:
            if run and (
                shard[block] != shard[run[0]]
                or not 0 <= offset[block] - offset[run[-1]] - size[run[-1]] <= _GAP
                or offset[block] + size[block] - offset[run[0]] > REQUEST_BYTES
            ):
                yield run
                run = []
            run.append(block)
        if run:
            yield run

    def _fetch_run(self, run: Sequence[int], ahead: Ahead) -> None:
        """Fetch neighbours into a cache. What cannot be had, or is not sound, is left to whoever reads it."""
        blocks = self._index.blocks
        start, stop = int(blocks.offset[run[0]]), int(blocks.offset[run[-1]] + blocks.size[run[-1]])
        data = self.storage.read(self._shard(run[0]), start, stop)
        for block in run:
            begin = int(blocks.offset[block]) - start
            frame = data[begin : begin + int(blocks.size[block])]
            if self._is_sound(block, frame) and not self._keep(block, frame):
                ahead.kept.put(self._digest(block), frame)

    def _fetch(self, block: int) -> bytes:
        blocks, name = self._index.blocks, self._shard(block)
        start, size = int(blocks.offset[block]), int(blocks.size[block])
        frame = b""
        for _ in range(2):
            try:
                frame = self.storage.read(name, start, start + size)
            except MissingError:
                self._demand_index()
                raise
            if self._is_sound(block, frame):
                self._keep(block, frame)
                return frame
            if self.storage.remote and len(frame) < size:
                break  # It was tried several times already.
            self.storage.forget(name)
        fault = "the shard was damaged or changed" if len(frame) == size else "the shard is cut short"
        raise DamagedError(
            f"{self.storage.locate(name)}: {self._index.describe_block(block)} does not match {INDEX_NAME}: "
            f"{fault}; {remedy(self.storage.place)}"
        )

    def _demand_index(self) -> None:
        """A shard may be missing; when the index is too, the set was moved or its disk is away, which is no damage."""
        try:
            self.storage.read_all(INDEX_NAME)
        except MissingError:
            raise UserError(f"{self.storage.place}: the shard set is gone; bring it back, or mount its disk") from None

    def _cached(self, block: int) -> bytes | None:
        ahead, digest = self._here(), self._digest(block)
        ahead.wait_for(block)
        return ahead.kept.get(digest) or (self._disk.get(digest) if self._disk else None)

    def _is_cached(self, block: int) -> bool:
        digest = self._digest(block)
        return digest in self._here().kept or (self._disk is not None and digest in self._disk)

    def _keep(self, block: int, frame: bytes) -> bool:
        return self._disk is not None and self._disk.put(self._digest(block), frame)

    def _is_sound(self, block: int, frame: bytes) -> bool:
        return hashlib.sha256(frame).hexdigest() == self._digest(block)

    def _digest(self, block: int) -> str:
        return self._index.blocks.sha256[block].tobytes().hex()

    def _shard(self, block: int) -> str:
        return self._index.shards[self._index.blocks.shard[block]].name

    def _here(self) -> Ahead:
        """What is under way in this process; of threads and locks, none crosses a fork."""
        if self._ahead is None or self._ahead.process != os.getpid():
            self._ahead = Ahead()
        return self._ahead

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_ahead": None}
