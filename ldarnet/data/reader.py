"""Random access to a shard set: whole blocks are read, verified against the index, and cached in packed form."""

import logging
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ldarnet.alphabet import N
from ldarnet.data.format import Block, unpack_bases, unpack_block
from ldarnet.data.frames import FrameReader
from ldarnet.data.index import Index
from ldarnet.data.remote_index import load_remote_index
from ldarnet.errors import UserError
from ldarnet.io.cache import DiskCache, default_cache_folder
from ldarnet.io.retry import Retry
from ldarnet.io.storage import DamagedError, repair_hint, storage_at

CACHE_BYTES = 512 * 2**20
"""Default size of the memory cache of packed blocks, per process: about two billion bases."""

DISK_CACHE_BYTES = 16 * 2**30
"""Default size of the disk cache of remote blocks, per node: about 64 billion bases."""

OnDamaged = Literal["stop", "quarantine"]

_LOG = logging.getLogger(__name__)
_PREFETCH_BLOCKS = 16  # blocks prefetched while a long interval is read


class ShardSet:
    """A shard set in a folder or at a URL.

    Picklable and fork-safe, but not thread-safe.

    Attributes:
        location: the folder or URL.
        folder: folder that holds the index; if the set is remote, the folder of the local copy of its index.
        storage: storage that holds the shards.
        index: the verified index.
        fingerprint: hash of the content; sets with equal content have equal fingerprints, however they were built.
        splits: name of each split -> number of bases.
    """

    def __init__(
        self, location: str, index: Index, frames: FrameReader, *, cache_bytes: int, on_damaged: OnDamaged = "stop"
    ) -> None:
        """Create a set from a loaded index; most callers use `open` instead."""
        assert index.folder is not None
        self.location = location
        self.folder: Path = index.folder
        self.index = index
        self.fingerprint = index.fingerprint
        self.splits = {name: int((rows[:, 2] - rows[:, 1]).sum()) for name, rows in index.splits.items()}
        self.storage = frames.storage
        self._frames = frames
        self._quarantine = on_damaged == "quarantine"
        self._damaged: dict[int, str] = {}
        self._cache_bytes = cache_bytes
        self._cached_bytes = 0
        self._cache: dict[int, Block] = {}

    @classmethod
    def open(
        cls,
        location: str | os.PathLike[str],
        *,
        cache_bytes: int = CACHE_BYTES,
        disk_cache: str | os.PathLike[str] | None = None,
        disk_cache_bytes: int = DISK_CACHE_BYTES,
        on_damaged: OnDamaged = "stop",
        retry: Retry | None = None,
    ) -> "ShardSet":
        """Open a shard set; no shard is read yet.

        Args:
            location: folder, or a URL that fsspec supports (``s3://``, ``gs://``, ``https://`` ...).
            cache_bytes: maximum size of the memory cache of each process.
            disk_cache: folder that caches remote sets for all processes of a node; by default ``~/.cache/ldarnet``.
            disk_cache_bytes: maximum total size of the blocks in ``disk_cache``; 0 caches only the index.
            on_damaged: what `read_windows` does with a window on a damaged or missing block: "stop" raises
                `DamagedError`, "quarantine" replaces the window with N. Any other error is raised in both cases.
            retry: retry policy for remote reads.

        Raises:
            UserError: ``location`` is not a shard set or cannot be read, or its index is damaged or has an unsupported
                format.
        """
        storage = storage_at(location, retry)
        if not storage.remote:
            folder = Path(storage.place)
            index = Index.load(folder)
            return cls(
                storage.place, index, FrameReader(index, storage), cache_bytes=cache_bytes, on_damaged=on_damaged
            )
        caches = Path(disk_cache) if disk_cache else default_cache_folder()
        index = load_remote_index(storage, caches)
        frames = FrameReader(index, storage, DiskCache(caches, disk_cache_bytes) if disk_cache_bytes else None)
        return cls(storage.place, index, frames, cache_bytes=cache_bytes, on_damaged=on_damaged)

    @cached_property
    def contigs(self) -> dict[str, int]:
        """Length in bases of each contig, by full name."""
        return dict(zip(self.index.contigs.all_names(), self.index.contigs.length.tolist(), strict=True))

    def read(self, contig: str | int, start: int, stop: int) -> np.ndarray:
        """Token ids of an interval, shape (stop - start,), uint8; all codes other than A, C, G, T are N.

        Args:
            contig: name or index.
            start: first base, 0-based.
            stop: end of the interval, exclusive.

        Raises:
            DamagedError: a shard is missing, damaged or changed.
            UserError: no such contig or interval, or a shard cannot be read.
        """
        parts = [block.ids(a, b) for block, a, b in self._blocks_in(contig, start, stop)]
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, dtype=np.uint8), *parts])

    def text(self, contig: str | int, start: int, stop: int) -> str:
        """Sequence of an interval exactly as in the input, with case and IUPAC codes.

        Raises:
            DamagedError, UserError: as for `read`.
        """
        return b"".join(block.text(a, b) for block, a, b in self._blocks_in(contig, start, stop)).decode("ascii")

    def read_windows(
        self, contig: np.ndarray, start: np.ndarray, length: int
    ) -> tuple[np.ndarray, list[tuple[int, str]]]:
        """Read windows given by contig index and first base, each of shape (b,).

        Returns:
            Token ids, (b, length) uint8, and a list with (row, reason) of each quarantined window, whose token ids are
            all N. A window is quarantined if it overlaps a damaged or missing block and the set was opened with
            ``on_damaged="quarantine"``.

        Raises:
            DamagedError: a shard is missing, damaged or changed, and the set was opened with ``on_damaged="stop"``.
            UserError: a window extends beyond its contig, or a shard cannot be read.
        """
        block, offset = self._locate(contig, start, length)
        whole = offset + length <= self.index.blocks.length[block]
        self.prefetch(block.tolist())
        ids = np.empty((len(start), length), dtype=np.uint8)
        # Windows within one block are copied in packed form (whole bytes) and then unpacked together.
        packed = np.zeros((len(start), (length + 3) // 4 + 1), dtype=np.uint8)
        n_runs: list[tuple[int, int, int]] = []
        damaged: list[tuple[int, str]] = []
        locations = list(zip(block.tolist(), offset.tolist(), whole.tolist(), strict=True))
        for row in np.argsort(block, kind="stable").tolist():
            number, begin, in_one_block = locations[row]
            try:
                if in_one_block:
                    if runs := self._cut(self.block(number), begin, length, packed[row]):
                        n_runs += ((row, *run) for run in runs)
                else:
                    ids[row] = self.read(int(contig[row]), int(start[row]), int(start[row]) + length)
            except DamagedError as error:
                if not self._quarantine:
                    raise
                damaged.append((row, str(error)))
        codes = unpack_bases(packed)
        for phase in range(4):
            rows = (whole & (offset % 4 == phase)).nonzero()[0]
            ids[rows] = codes[rows, phase : phase + length]
        for row, run_start, run_stop in n_runs:
            ids[row, run_start:run_stop] = N
        ids[[row for row, _ in damaged]] = N
        return ids, sorted(damaged)

    @staticmethod
    def _cut(block: Block, start: int, length: int, packed: np.ndarray) -> Sequence[tuple[int, int]]:
        """Copy the bytes that contain a window into ``packed``; return the runs of N in the window."""
        taken = block.packed[start // 4 : start // 4 + len(packed)]
        packed[: len(taken)] = taken
        return block.n_runs(start, start + length) if len(block.runs) else ()

    def blocks_of(self, contig: np.ndarray, start: np.ndarray, length: int) -> list[int]:
        """Indices of the blocks that the given windows overlap, without duplicates, in the order of the windows.

        Args:
            contig: (b,) contig indices.
            start: (b,) first bases.
            length: bases in a window.

        Raises:
            UserError: a window extends beyond its contig.
        """
        first, _ = self._locate(contig, start, length)
        last, _ = self._locate(contig, start + (length - 1), 1)
        overlapped = (range(a, b + 1) for a, b in zip(first.tolist(), last.tolist(), strict=True))
        return list(dict.fromkeys(block for blocks in overlapped for block in blocks))

    def prefetch(self, blocks: Sequence[int]) -> None:
        """Start fetching blocks of a remote set in background threads, in the given order; no-op for a local set.

        At most `prefetch.MAX_PREFETCH_BYTES` are in flight: the first block that would exceed this limit and all blocks
        after it are skipped. A failed fetch raises no error; the block is fetched again when it is read.
        """
        if self.storage.remote:
            self._frames.prefetch(
                [block for block in blocks if block not in self._cache and block not in self._damaged]
            )

    def block(self, number: int) -> Block:
        """Return the block at index ``number``, from the memory cache if possible.

        Raises:
            DamagedError: the shard of the block is missing, damaged or changed.
            UserError: the shard cannot be read.
        """
        block = self._cache.pop(number, None)
        if block is None:
            block = self._load_unless_damaged(number)
            self._cached_bytes += block.nbytes
        self._cache[number] = block  # the first entry is the least recently used
        while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
            self._cached_bytes -= self._cache.pop(next(iter(self._cache))).nbytes
        return block

    def load(self, number: int) -> Block:
        """Read the block at index ``number`` without the memory cache, and verify it.

        Raises:
            DamagedError, UserError: as for `block`.
        """
        frame, length = self._frames.read(number), int(self.index.blocks.length[number])
        try:
            block = unpack_block(frame, length)
            if block.length == length:
                return block
            mismatch = f"{block.length} bases"
        except ValueError as error:
            mismatch = str(error)
        shard = self.index.shards[self.index.blocks.shard[number]].name
        raise DamagedError(
            f"{self.location}/{shard}: {self.index.describe_block(number)} does not match the index ({mismatch}); "
            f"{repair_hint(self.location)}"
        )

    def _load_unless_damaged(self, number: int) -> Block:
        if number in self._damaged:
            raise DamagedError(self._damaged[number])
        try:
            return self.load(number)
        except DamagedError as error:
            if self._quarantine:
                if str(error) not in self._damaged.values():
                    _LOG.warning("quarantining windows on a damaged block: %s", error)
                self._damaged[number] = str(error)
            raise

    def _blocks_in(self, contig: str | int, start: int, stop: int) -> Iterator[tuple[Block, int, int]]:
        """Yield (block, start, stop) for each block that an interval overlaps; positions are relative to the block."""
        number = self._contig_number(contig)
        if not 0 <= start <= stop <= self.index.contigs.length[number]:
            raise UserError(self._outside(number, start, stop))
        if start == stop:
            return
        base = int(self._first_base[self.index.first_block[number]])
        first, last = (self._first_base.searchsorted((base + start, base + stop - 1), side="right") - 1).tolist()
        for block in range(first, last + 1):
            if first < last:
                self.prefetch(range(block, min(block + _PREFETCH_BLOCKS, last + 1)))
            origin, unpacked = int(self._first_base[block]) - base, self.block(block)
            yield unpacked, max(start - origin, 0), min(stop - origin, unpacked.length)

    def _locate(self, contig: np.ndarray, start: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the block that contains the first base of each window, and the offset of the base in the block.

        Raises:
            UserError: a window extends beyond its contig.
        """
        outside = (start < 0) | (start + length > self.index.contigs.length[contig])
        if outside.any():
            row = int(outside.argmax())
            raise UserError(self._outside(int(contig[row]), int(start[row]), int(start[row]) + length))
        base = self._first_base[self.index.first_block[contig]] + start
        block = self._first_base.searchsorted(base, side="right") - 1
        return block, base - self._first_base[block]

    def _outside(self, contig: int, start: int, stop: int) -> str:
        name, length = self.index.name(contig), self.index.contigs.length[contig]
        return f"{self.location}: {name}:{start}-{stop} is out of range; {name} has {length} bases (0-{length})"

    @cached_property
    def _first_base(self) -> np.ndarray:
        """Number of bases in the blocks before each block, (b + 1,) int64; the last entry is the total."""
        return np.concatenate(([0], np.cumsum(self.index.blocks.length)))

    def _contig_number(self, contig: str | int) -> int:
        if not isinstance(contig, str):
            return contig
        try:
            return self.index.number(contig)
        except UserError as error:
            raise UserError(f"{self.location}: {error}") from None

    def __getstate__(self) -> dict[str, Any]:
        derived = ("contigs", "_first_base")
        state = {name: value for name, value in self.__dict__.items() if name not in derived}
        return state | {"_cache": {}, "_cached_bytes": 0}
