"""Read packed blocks (frames) from shards, verify their SHA-256, and cache the blocks of remote sets."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from ldarnet.data.index import Index
from ldarnet.data.index_file import INDEX_NAME
from ldarnet.data.prefetch import MAX_PREFETCH_BYTES, Prefetcher
from ldarnet.errors import UserError
from ldarnet.io.cache import DiskCache
from ldarnet.io.storage import DamagedError, MissingError, Storage, repair_hint

MAX_REQUEST_BYTES = 8 * 2**20
"""Maximum size of one request that reads several adjacent blocks."""

_MAX_GAP = 1024  # bytes between adjacent frames of a shard: padding and a header


class FrameReader:
    """Reads the frames of a set by block index. Picklable and fork-safe.

    Attributes:
        storage: storage that holds the shards.
    """

    def __init__(self, index: Index, storage: Storage, disk: DiskCache | None = None) -> None:
        """Create a reader of the shards in ``storage``; if they are remote, ``disk`` caches their frames."""
        self._index = index
        self.storage = storage
        self._disk = disk
        self._prefetcher: Prefetcher | None = None

    def read(self, block: int) -> bytes:
        """Read a frame and verify its hash.

        If the hash does not match, the frame is read again, without caches and from a newly opened file.

        Raises:
            DamagedError: the shard is missing, or the bytes do not match the index.
            UserError: the shard cannot be read.
        """
        frame = self._cached(block) if self.storage.remote else None
        return self._fetch(block) if frame is None else frame

    def prefetch(self, blocks: Sequence[int]) -> None:
        """Start fetching blocks of a remote set in background threads, in the given order.

        At most `MAX_PREFETCH_BYTES` are in flight: the first block that would exceed this limit and all blocks after it
        are skipped. A failed fetch raises no error; the block is fetched again when it is read.
        """
        prefetcher, sizes = self._local_prefetcher(), self._index.blocks.size
        room, rank = MAX_PREFETCH_BYTES - prefetcher.bytes, {}
        for block in blocks:
            if block not in rank and block not in prefetcher and not self._is_cached(block):
                room -= int(sizes[block])
                if room < 0:
                    break
                rank[block] = len(rank)
        for run in sorted(self._runs(sorted(rank)), key=lambda run: min(rank[block] for block in run)):
            prefetcher.submit(run, int(sizes[run].sum()), lambda run=run: self._fetch_run(run, prefetcher))

    def _runs(self, blocks: Sequence[int]) -> Iterator[list[int]]:
        """Group sorted blocks into runs of blocks that are adjacent in a shard and fit into one request."""
        shard, offset, size = self._index.blocks.shard, self._index.blocks.offset, self._index.blocks.size
        run: list[int] = []
        for block in blocks:
            if run and (
                shard[block] != shard[run[0]]
                or not 0 <= offset[block] - offset[run[-1]] - size[run[-1]] <= _MAX_GAP
                or offset[block] + size[block] - offset[run[0]] > MAX_REQUEST_BYTES
            ):
                yield run
                run = []
            run.append(block)
        if run:
            yield run

    def _fetch_run(self, run: Sequence[int], prefetcher: Prefetcher) -> None:
        """Fetch adjacent blocks into a cache. Damaged blocks are not cached, so `read` reports the damage later."""
        blocks = self._index.blocks
        start, stop = int(blocks.offset[run[0]]), int(blocks.offset[run[-1]] + blocks.size[run[-1]])
        data = self.storage.read(self._shard(run[0]), start, stop)
        for block in run:
            begin = int(blocks.offset[block]) - start
            frame = data[begin : begin + int(blocks.size[block])]
            if self._matches(block, frame) and not self._cache(block, frame):
                prefetcher.fetched.put(self._digest(block), frame)

    def _fetch(self, block: int) -> bytes:
        blocks, name = self._index.blocks, self._shard(block)
        start, size = int(blocks.offset[block]), int(blocks.size[block])
        frame = b""
        for _ in range(2):
            try:
                frame = self.storage.read(name, start, start + size)
            except MissingError:
                self._check_index_exists()
                raise
            if self._matches(block, frame):
                self._cache(block, frame)
                return frame
            if self.storage.remote and len(frame) < size:
                break  # the storage has retried already
            self.storage.forget(name)
        fault = "the shard is damaged or was changed" if len(frame) == size else "the shard is truncated"
        raise DamagedError(
            f"{self.storage.locate(name)}: {self._index.describe_block(block)} does not match {INDEX_NAME}: "
            f"{fault}; {repair_hint(self.storage.place)}"
        )

    def _check_index_exists(self) -> None:
        """Raise a UserError if the whole set is missing, so that its windows are not quarantined."""
        try:
            self.storage.size(INDEX_NAME)
        except MissingError:
            raise UserError(
                f"{self.storage.place}: the shard set no longer exists; restore it, or mount its disk"
            ) from None

    def _cached(self, block: int) -> bytes | None:
        prefetcher, digest = self._local_prefetcher(), self._digest(block)
        prefetcher.wait_for(block)
        return prefetcher.fetched.get(digest) or (self._disk.get(digest) if self._disk else None)

    def _is_cached(self, block: int) -> bool:
        digest = self._digest(block)
        return digest in self._local_prefetcher().fetched or (self._disk is not None and digest in self._disk)

    def _cache(self, block: int, frame: bytes) -> bool:
        return self._disk is not None and self._disk.put(self._digest(block), frame)

    def _matches(self, block: int, frame: bytes) -> bool:
        return hashlib.sha256(frame).hexdigest() == self._digest(block)

    def _digest(self, block: int) -> str:
        return self._index.blocks.sha256[block].tobytes().hex()

    def _shard(self, block: int) -> str:
        return self._index.shards[self._index.blocks.shard[block]].name

    def _local_prefetcher(self) -> Prefetcher:
        """The prefetcher of this process; a forked process needs its own threads and locks."""
        if self._prefetcher is None or self._prefetcher.process != os.getpid():
            self._prefetcher = Prefetcher()
        return self._prefetcher

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_prefetcher": None}
