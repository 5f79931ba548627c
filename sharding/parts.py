"""Pack one source: group its contigs into parts, and pack each part into its own shards.

A part consists of as many whole contigs as it takes to reach ``shard_size`` bases. The shards depend only on the
sequences, the block length and ``shard_size``. They do not depend on the compression of the input, the number of
workers, or interruptions.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldarnet.data.contigs import CONTIG_ROW, names_as_lines
from ldarnet.data.format import pack_block
from ldarnet.data.writer import PackedBlock, write_shards
from ldarnet.genome.fasta import parse_fasta
from ldarnet.genome.sources import Header, RawFile, SequenceSource, local_copy, read_ahead, text_pieces
from ldarnet.genome.twobit import read_2bit
from ldarnet.io.files import file_size, sha256_file
from ldarnet.threads import usable_cpus
from sharding.receipts import PartReceipt, Receipts, Seal, part_name

PACKERS = min(4, usable_cpus())
"""Packing threads per worker. With more threads, decompression of the input would be the bottleneck."""
MIN_THREADED_BASES = 2**16
"""Minimum length of a block that is packed in a thread of the pool."""

_NO_RUNS = np.zeros((0, 2), dtype=np.int64)
Items = Iterator[Header | bytes]


@dataclass(frozen=True, slots=True)
class PackJob:
    """The task of packing one source, as sent to a worker.

    Attributes:
        out: output folder of the build.
        number: index of the source among the sources of the build.
        source: the input file or URL.
        block: block length in bases.
        shard_size: shard length in bases.
    """

    out: Path
    number: int
    source: SequenceSource
    block: int
    shard_size: int

    @property
    def receipts(self) -> Receipts:
        """The receipts of the build."""
        return Receipts(self.out)

    @property
    def seal(self) -> Seal | None:
        """The seal of the source; None until all of its parts are packed."""
        return self.receipts.seal(self.number)

    @property
    def is_done(self) -> bool:
        """Whether every part of the source has a receipt."""
        seal = self.seal
        return seal is not None and all(self.receipts.has(self.number, part) for part in range(seal.parts))


@dataclass(frozen=True, slots=True)
class _OpenSource:
    """A source that is being read sequentially.

    Attributes:
        items: headers and pieces of sequence.
        position: returns the number of bytes read so far; an estimate for .2bit files.
        identify: returns the size in bytes and the SHA-256 of the file. Call it after the last item.
    """

    items: Items
    position: Callable[[], int]
    identify: Callable[[], tuple[int, str]]


def pack_source(job: PackJob) -> None:
    """Pack the parts of a source that have no receipt yet, then write the seal of the source.

    Raises:
        UserError: the input is invalid, the disk is full, or a server fails.
    """
    receipts, part, counted = job.receipts, 0, 0
    with _open(job.source) as source:
        header = next(source.items, None)
        while header is not None:
            assert isinstance(header, Header)
            items = _PartItems(header, source.items, job.shard_size)
            if receipts.has(job.number, part):
                deque(items, maxlen=0)
                counted = source.position()
            else:
                packed = _pack(job, part, items)
                packed.read = source.position() - counted
                counted += packed.read
                receipts.write(job.number, part, packed)
            header, part = items.next_header, part + 1
        receipts.write_seal(job.number, Seal(*source.identify(), part))


@contextmanager
def _open(source: SequenceSource) -> Iterator[_OpenSource]:
    with RawFile(source.location) as raw, _open_2bit(source) if raw.is_2bit() else _open_fasta(raw) as opened:
        yield opened


@contextmanager
def _open_fasta(raw: RawFile) -> Iterator[_OpenSource]:
    with closing(read_ahead(text_pieces(raw))) as pieces:
        items = parse_fasta(raw.location, pieces)
        yield _OpenSource(items, lambda: raw.count, lambda: (raw.count, raw.digest.hexdigest()))


@contextmanager
def _open_2bit(source: SequenceSource) -> Iterator[_OpenSource]:
    with local_copy(source) as path:
        bases = 0

        def items() -> Items:
            nonlocal bases
            for item in read_2bit(path):
                bases += 0 if isinstance(item, Header) else len(item)
                yield item

        yield _OpenSource(items(), lambda: bases // 4, lambda: (file_size(path), sha256_file(path)))


class _PartItems:
    """The headers and sequence pieces of one part.

    Attributes:
        next_header: first header of the next part; None if there is none. Valid after all items have been read.
    """

    def __init__(self, header: Header, items: Items, size: int) -> None:
        self.next_header: Header | None = header
        self._items = items
        self._size = size

    def __iter__(self) -> Items:
        bases = 0
        while self.next_header is not None and bases < self._size:
            header, self.next_header = self.next_header, None
            yield header
            for item in self._items:
                if isinstance(item, Header):
                    self.next_header = item
                    break
                bases += len(item)
                yield item


def _pack(job: PackJob, part: int, items: Iterable[Header | bytes]) -> PartReceipt:
    """Write the shards of a part."""
    cutter = _Cutter(items, job.block)
    shards, blocks = write_shards(job.out, part_name(job.number, part), cutter.blocks(), job.shard_size)
    return PartReceipt(names_as_lines(cutter.names), cutter.contigs(), cutter.all_runs(), blocks, shards)


class _Cutter:
    """Cuts contigs into blocks, packs the blocks in threads, and collects the metadata of each contig for the index.

    Attributes:
        names: contig names.
        lengths: length of each finished contig, in bases.
        hashes: SHA-256 of the sequence of each finished contig.
        runs: for each contig, a list of (r, 2) int64 arrays, one per block that contains codes other than A, C, G and
            T. Each row is the start and stop of a run of such a code, relative to the contig.
    """

    def __init__(self, items: Iterable[Header | bytes], block: int) -> None:
        self.names: list[str] = []
        self.lengths: list[int] = []
        self.hashes: list[bytes] = []
        self.runs: list[list[np.ndarray]] = []
        self._items = items
        self._block = block

    def blocks(self) -> Iterator[PackedBlock]:
        """Yield the packed blocks of all contigs, in order."""
        pending: deque[tuple[_Cut, Callable[[], tuple[bytes, np.ndarray]]]] = deque()
        with ThreadPoolExecutor(PACKERS) as pool:
            for cut in self._cuts():
                large = len(cut.text) >= MIN_THREADED_BASES
                pack = pool.submit(pack_block, cut.text).result if large else partial(pack_block, cut.text)
                pending.append((cut, pack))
                if len(pending) > 2 * PACKERS:
                    yield self._packed(*pending.popleft())
            while pending:
                yield self._packed(*pending.popleft())

    def contigs(self) -> np.ndarray:
        """Structured array of the contigs (dtype `CONTIG_ROW`); the columns ``species`` and ``source`` are zero."""
        rows = np.zeros(len(self.lengths), dtype=CONTIG_ROW)
        rows["length"] = self.lengths
        rows["runs"] = [len(_join(runs)) for runs in self.runs]
        rows["sha256"] = np.frombuffer(b"".join(self.hashes), dtype=np.uint8).reshape(-1, 32)
        return rows

    def all_runs(self) -> np.ndarray:
        """The runs of all contigs in order: (r, 2) int64."""
        return np.concatenate([_join(runs) for runs in self.runs])

    def _cuts(self) -> Iterator["_Cut"]:
        """Cut all contigs into blocks, without packing them."""
        pending, start, digest = bytearray(), 0, hashlib.sha256()

        def cut(length: int) -> _Cut:
            nonlocal start
            with memoryview(pending) as view:
                text = bytes(view[:length])
            del pending[:length]
            start += length
            return _Cut(len(self.names) - 1, start - length, text)

        def finish() -> Iterator[_Cut]:
            if pending:
                yield cut(len(pending))
            self.lengths.append(start)
            self.hashes.append(digest.digest())

        for item in self._items:
            if isinstance(item, Header):
                if self.names:
                    yield from finish()
                self.names.append(item.name)
                self.runs.append([])
                start, digest = 0, hashlib.sha256()
                continue
            digest.update(item)
            pending += item
            while len(pending) >= self._block:
                yield cut(self._block)
        if self.names:
            yield from finish()

    def _packed(self, cut: "_Cut", pack: Callable[[], tuple[bytes, np.ndarray]]) -> PackedBlock:
        frame, runs = pack()
        if len(runs):
            self.runs[cut.contig].append(runs + cut.start)
        return PackedBlock(cut.contig, cut.start, len(cut.text), frame)


class _Cut(NamedTuple):
    """A block that is not packed yet: index of the contig within the part, first base, sequence."""

    contig: int
    start: int
    text: bytes


def _join(runs: list[np.ndarray]) -> np.ndarray:
    """Concatenate (r, 2) arrays of runs, and merge runs that touch.

    Runs touch where two different codes follow each other, and where a block border divides a run.
    """
    if not runs:
        return _NO_RUNS
    every = np.concatenate(runs)
    apart = every[1:, 0] > every[:-1, 1]
    return np.stack((every[np.append(True, apart), 0], every[np.append(apart, True), 1]), axis=1)
