"""Packing the parts of a source: runs of whole contigs, each into shards of its own and a receipt that says so.

A part ends with the first contig end after ``shard_size`` letters: this depends on the sequences alone, so that plain
and compressed files give the same bytes, and so do any number of workers. What can be looked through beforehand (plain
FASTA, .2bit) is packed part by part; the rest is read from front to back by one worker.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldarnet.data.contigs import CONTIG_ROW, names_as_lines
from ldarnet.data.format import pack_block
from ldarnet.data.writer import PackedBlock, write_shards
from ldarnet.genome.fasta import Header, find_parts, parse_fasta
from ldarnet.genome.sources import PIECE, Raw, Source, is_packed, local_copy, read_ahead, text_pieces
from ldarnet.genome.twobit import find_2bit_parts, read_2bit
from ldarnet.io.files import file_size, read_errors, sha256_file
from sharding.receipts import Plan, Receipt, Receipts, Seal, part_name

PACKERS = min(4, os.cpu_count() or 1)
"""Threads that pack blocks in each worker: with more, reading a compressed file is the slower half."""

WORTH_A_THREAD = 2**16
"""Letters of a block that is handed to another thread."""

_NO_RUNS = np.zeros((0, 2), dtype=np.int64)
Items = Iterator[Header | bytes]


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs to know to pack a source.

    Attributes:
        out: folder of the set.
        number: number of the source.
        source: where it lies.
        block: bases in a block.
        shard_size: bases in a shard.
    """

    out: Path
    number: int
    source: Source
    block: int
    shard_size: int

    @property
    def receipts(self) -> Receipts:
        """The receipts of its set."""
        return Receipts(self.out)

    @property
    def plan(self) -> Plan | None:
        """Its plan, if it has been looked through."""
        return self.receipts.plan(self.number)

    @property
    def seal(self) -> Seal | None:
        """Its seal, if it has been read to its end."""
        return self.receipts.seal(self.number)

    @property
    def can_be_planned(self) -> bool:
        """Whether the source can be looked through before it is packed: a local .2bit or plain FASTA file."""
        source = self.source
        return not source.remote and (source.is_2bit or not is_packed(Path(source.location)))


def make_plan(job: Job) -> None:
    """Look through a source that can be planned and write down where its parts begin.

    Raises:
        UserError: it cannot be read.
    """
    job.receipts.write_plan(job.number, _plan(job, Path(job.source.location)))


def make_seal(job: Job) -> None:
    """Hash a source that has a plan, and write it down.

    Raises:
        UserError: it cannot be read.
    """
    job.receipts.write_seal(job.number, _seal(Path(job.source.location)))


def pack_planned(job: Job, part: int) -> None:
    """Pack one part of a source that has a plan, and leave a receipt.

    Raises:
        UserError: bad input, or a full device.
    """
    plan = job.plan
    assert plan is not None
    _pack_planned(job, Path(job.source.location), plan, part)


def pack_all(job: Job) -> None:
    """Pack the parts of a source that have no receipt yet, from front to back; leave receipts, a plan and a seal.

    Raises:
        UserError: bad input, a full device or a failing server.
    """
    if not job.source.is_2bit:
        _pack_stream(job)
        return
    with local_copy(job.source) as path:
        plan = _plan(job, path)
        for part in range(plan.parts):
            if not job.receipts.has(job.number, part):
                _pack_planned(job, path, plan, part)
        job.receipts.write_plan(job.number, plan)
        job.receipts.write_seal(job.number, _seal(path))


def _plan(job: Job, path: Path) -> Plan:
    if job.source.is_2bit:
        return Plan(find_2bit_parts(path, job.shard_size))
    return Plan(find_parts(_range(path, 0, file_size(path)), job.shard_size))


def _seal(path: Path) -> Seal:
    with read_errors(path):
        return Seal(file_size(path), sha256_file(path))


def _pack_planned(job: Job, path: Path, plan: Plan, part: int) -> None:
    (begin, line), (end, last_line) = plan.starts[part : part + 2]
    if job.source.is_2bit:
        items, read = read_2bit(path, begin, end), file_size(path) // plan.parts
    else:
        items = parse_fasta(job.source.location, _range(path, begin, end), offset=begin, line=line)
        read = end - begin
    packed = _pack(job, part, items)
    job.receipts.write(job.number, part, Receipt(**packed, end=(end, last_line), read=read))


def _range(path: Path, begin: int, end: int) -> Iterator[bytes]:
    with read_errors(path), path.open("rb", buffering=0) as file:
        file.seek(begin)
        while begin < end and (data := file.read(min(PIECE, end - begin))):
            begin += len(data)
            yield data


def _pack_stream(job: Job) -> None:
    """Pack a FASTA file from front to back."""
    receipts, starts, told = job.receipts, [(0, 1)], 0
    while receipts.has(job.number, len(starts) - 1):
        before = receipts.read(job.number, len(starts) - 1)
        starts.append(before.end)
        told += before.read
    begin, line = starts[-1]
    with Raw(job.source.location) as raw, closing(read_ahead(text_pieces(raw))) as pieces:
        text = _Text(pieces, begin)
        if begin == 0 or not text.ended:
            items = parse_fasta(job.source.location, text, offset=begin, line=line)
            header = next(items)
            while header is not None:
                assert isinstance(header, Header)
                part = _Part(header, items, job.shard_size)
                packed = _pack(job, len(starts) - 1, part)
                header = part.next_header
                end = (header.offset, header.line) if header else (text.at, 0)
                read = raw.count - told
                receipts.write(job.number, len(starts) - 1, Receipt(**packed, end=end, read=read))
                starts.append(end)
                told += read
        receipts.write_plan(job.number, Plan(starts))
        receipts.write_seal(job.number, Seal(raw.count, raw.digest.hexdigest()))


class _Text:
    """The pieces of a text from byte ``begin`` on.

    Attributes:
        at: bytes given so far and those before ``begin``.
        ended: whether there are none after ``begin``.
    """

    def __init__(self, pieces: Iterator[bytes], begin: int) -> None:
        piece, self.at = b"", 0
        while self.at <= begin and (piece := next(pieces, b"")):
            self.at += len(piece)
        self._pieces = chain((piece[len(piece) - (self.at - begin) :],), pieces)
        self.ended = self.at <= begin
        self.at = begin

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.at += len(piece)
            yield piece


class _Part:
    """The headers and letters of one part, cut from those of a whole source.

    Attributes:
        next_header: where the next part begins, if there is one; known when this part has been taken to its end.
    """

    def __init__(self, header: Header, items: Items, size: int) -> None:
        self.next_header: Header | None = header
        self._items = items
        self._size = size

    def __iter__(self) -> Items:
        letters = 0
        while self.next_header is not None and letters < self._size:
            header, self.next_header = self.next_header, None
            yield header
            for item in self._items:
                if isinstance(item, Header):
                    self.next_header = item
                    break
                letters += len(item)
                yield item


def _pack(job: Job, part: int, items: Iterable[Header | bytes]) -> dict[str, Any]:
    """Write the shards of a part; what its receipt says of contigs, blocks and shards."""
    cutter = _Cutter(items, job.block)
    shards, blocks = write_shards(job.out, part_name(job.number, part), cutter.blocks(), job.shard_size)
    return {
        "names": names_as_lines(cutter.names),
        "contigs": cutter.contigs(),
        "runs": cutter.all_runs(),
        "blocks": blocks,
        "shards": shards,
    }


class _Cutter:
    """Cuts contigs into blocks, which threads pack side by side, and keeps what the index must know of each contig.

    Attributes:
        names: of the contigs.
        lengths: of those read to their end.
        hashes: of their letters.
        runs: of each contig, block by block, (r, 2) int64: the runs of letters other than A, C, G, T.
    """

    def __init__(self, items: Iterable[Header | bytes], block: int) -> None:
        self.names: list[str] = []
        self.lengths: list[int] = []
        self.hashes: list[bytes] = []
        self.runs: list[list[np.ndarray]] = []
        self._items = items
        self._block = block

    def blocks(self) -> Iterator[PackedBlock]:
        """The blocks of all contigs in order."""
        begun: deque[tuple[_Cut, Callable[[], tuple[bytes, np.ndarray]]]] = deque()
        with ThreadPoolExecutor(PACKERS) as pool:
            for cut in self._cuts():
                large = len(cut.text) >= WORTH_A_THREAD
                pack = pool.submit(pack_block, cut.text).result if large else partial(pack_block, cut.text)
                begun.append((cut, pack))
                if len(begun) > 2 * PACKERS:
                    yield self._packed(*begun.popleft())
            while begun:
                yield self._packed(*begun.popleft())

    def contigs(self) -> np.ndarray:
        """Rows of `CONTIG_ROW`."""
        rows = np.zeros(len(self.lengths), dtype=CONTIG_ROW)
        rows["length"] = self.lengths
        rows["runs"] = [len(_join(runs)) for runs in self.runs]
        rows["sha256"] = np.frombuffer(b"".join(self.hashes), dtype=np.uint8).reshape(-1, 32)
        return rows

    def all_runs(self) -> np.ndarray:
        """(r, 2) int64, in order of contig."""
        return np.concatenate([_join(runs) for runs in self.runs])

    def _cuts(self) -> Iterator[_Cut]:
        """The blocks as they are cut from the input."""
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

    def _packed(self, cut: _Cut, pack: Callable[[], tuple[bytes, np.ndarray]]) -> PackedBlock:
        frame, runs = pack()
        if len(runs):
            self.runs[cut.contig].append(runs + cut.start)
        return PackedBlock(cut.contig, cut.start, len(cut.text), frame)


class _Cut(NamedTuple):
    """A block to be: number of its contig in the part, first base, letters."""

    contig: int
    start: int
    text: bytes


def _join(runs: list[np.ndarray]) -> np.ndarray:
    """Runs of one letter each to runs of any other letters than A, C, G, T."""
    if not runs:
        return _NO_RUNS
    every = np.concatenate(runs)
    apart = every[1:, 0] > every[:-1, 1]
    return np.stack((every[np.append(True, apart), 0], every[np.append(apart, True), 1]), axis=1)
