"""Verify every byte of a shard set: ``ldarnet verify SET``."""

import hashlib
import json
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from typing import Annotated

import numpy as np
import typer

from ldarnet.console import percent_bar
from ldarnet.data.index_file import INDEX_NAME, parse_index
from ldarnet.data.reader import ShardSet
from ldarnet.errors import UserError
from ldarnet.io.records import MAX_BYTES
from ldarnet.io.storage import Storage, repair_hint
from ldarnet.program import run
from ldarnet.threads import usable_cpus
from sharding.executors import process_pool

_PIECE_BYTES = 8 * 2**20
_TASK_BASES = 2**26
_AHEAD_BLOCKS = 16
_RECORD = tarfile.BLOCKSIZE

_shards: ShardSet  # set in a worker process
Check = tuple[Callable[[ShardSet, int, int], list[str]], int, int, int]
"""A function that checks a part of the set, its two arguments, and its amount of work in bases or bytes."""


def problems(shards: ShardSet, workers: int = 1, advance: Callable[[int], None] = lambda _: None) -> Iterator[str]:
    """Yield one line for each mismatch in a shard set.

    Every index file, shard and block is compared with its size and SHA-256, and every contig with the hash of its input
    sequence. If a shard does not match, its damaged blocks, headers and padding are reported.

    Args:
        shards: the set.
        workers: number of processes; 1 checks in this process.
        advance: called with the amount of work done since the last call, in the unit of `total_work`.

    Raises:
        UserError: a worker process was killed.
    """
    checks = _checks(shards)
    reported: set[str] = set()
    pool = process_pool(workers, _init_worker, shards) if workers > 1 else None
    with pool or nullcontext():
        if pool:
            futures = {pool.submit(_run_in_worker, check): check for check in checks}
            results = ((futures[future], future.result()) for future in as_completed(futures))
        else:
            results = ((check, _run_check(shards, check)) for check in checks)
        try:
            for check, found in results:
                advance(check[3])
                yield from (fault for fault in found if fault not in reported)
                reported.update(found)
        except BrokenProcessPool:
            raise UserError(
                f"{shards.location}: a worker was killed, possibly by the out-of-memory killer; use fewer --workers"
            ) from None


def total_work(shards: ShardSet) -> int:
    """Total amount of work of `problems`: bytes of all shards plus bases of all contigs."""
    return sum(work for _, _, _, work in _checks(shards))


def _checks(shards: ShardSet) -> list[Check]:
    index = shards.index
    checks: list[Check] = [(_shard_faults, number, 0, shard.size) for number, shard in enumerate(index.shards)]
    checks.append((_index_faults, 0, 0, 0))
    stops = np.cumsum(index.contigs.length)
    first, base = 0, 0
    while first < len(stops):
        last = max(first + 1, int(stops.searchsorted(base + _TASK_BASES, side="right")))
        checks.append((_contig_faults, first, last, int(stops[last - 1]) - base))
        first, base = last, int(stops[last - 1])
    return sorted(checks, key=lambda check: -check[3])


def _init_worker(shards: ShardSet) -> None:
    global _shards
    _shards = shards


def _run_in_worker(check: Check) -> list[str]:
    return _run_check(_shards, check)


def _run_check(shards: ShardSet, check: Check) -> list[str]:
    function, first, last, _ = check
    try:
        return function(shards, first, last)
    except UserError as error:
        return [str(error)]


def _index_faults(shards: ShardSet, _first: int, _last: int) -> list[str]:
    """Check the stored files of the index.

    When a set is opened, these files are not fully checked: a cached copy may be read, and any JSON formatting is
    accepted.
    """
    storage, hint = shards.storage, repair_hint(shards.location)
    text = storage.read_all(INDEX_NAME, MAX_BYTES)
    content = parse_index(text, where=storage.locate(INDEX_NAME), hint=hint)
    found = []
    if text.decode() != json.dumps(json.loads(text), indent=1) + "\n":
        found.append(f"{storage.locate(INDEX_NAME)}: damaged (its formatting has changed); {hint}")
    for name, table in content.tables.items():
        if storage.size(name) not in (None, table.size) or _sha256(storage, name, table.size) != table.sha256:
            found.append(f"{storage.locate(name)}: damaged (it does not match {INDEX_NAME}); {hint}")
    return found


def _sha256(storage: Storage, name: str, size: int) -> str:
    digest = hashlib.sha256()
    for start in range(0, size, _PIECE_BYTES):
        digest.update(storage.read(name, start, min(start + _PIECE_BYTES, size)))
    return digest.hexdigest()


def _shard_faults(shards: ShardSet, number: int, _: int) -> list[str]:
    shard, storage = shards.index.shards[number], shards.storage
    path, size, hint = storage.locate(shard.name), storage.size(shard.name), repair_hint(shards.location)
    if size not in (None, shard.size):
        return [f"{path}: {size} bytes, but {shard.size} in the index; {hint}"]
    if _sha256(storage, shard.name, shard.size) == shard.sha256:
        return []
    return list(_differences(shards, number)) or [f"{path}: damaged or changed since it was written; {hint}"]


def _differences(shards: ShardSet, number: int) -> Iterator[str]:
    """Yield the damaged blocks, headers and padding of a shard."""
    shard, blocks = shards.index.shards[number], shards.index.blocks
    path, hint = shards.storage.locate(shard.name), repair_hint(shards.location)
    mine = np.flatnonzero(blocks.shard == number)
    end = 0
    for block in mine[np.argsort(blocks.offset[mine])].tolist():
        offset, size = int(blocks.offset[block]), int(blocks.size[block])
        if not _is_header(shards.storage.read(shard.name, end, offset), size):
            yield f"{path}: the tar header of {shards.index.describe_block(block)} is damaged; {hint}"
        try:
            shards.load(block)
        except UserError as error:
            yield str(error)
        end = offset + size + -size % _RECORD
        if any(shards.storage.read(shard.name, offset + size, end)):
            yield f"{path}: the padding after {shards.index.describe_block(block)} is damaged; {hint}"
    for start in range(end, shard.size, _PIECE_BYTES):
        if any(shards.storage.read(shard.name, start, min(start + _PIECE_BYTES, shard.size))):
            yield f"{path}: the end of the archive, from byte {end}, is damaged; {hint}"
            return


def _is_header(header: bytes, size: int) -> bool:
    """Whether ``header`` is an undamaged tar header of a member of ``size`` bytes."""
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError):
        return False
    return member.size == size and member.tobuf(tarfile.USTAR_FORMAT) == header


def _contig_faults(shards: ShardSet, first: int, last: int) -> list[str]:
    return [fault for contig in range(first, last) for fault in _sequence_faults(shards, contig)]


def _sequence_faults(shards: ShardSet, contig: int) -> list[str]:
    index, digest, found = shards.index, hashlib.sha256(), []
    first, last = index.first_block[contig : contig + 2].tolist()
    for number in range(first, last):
        shards.prefetch(range(number, min(number + _AHEAD_BLOCKS, last)))
        try:
            block = shards.load(number)
        except UserError as error:
            found.append(str(error))
            continue
        digest.update(block.text(0, block.length))
    if not found and digest.digest() != index.contigs.sha256[contig].tobytes():
        found.append(f"{shards.location}: contig {index.name(contig)} does not match the index; rebuild the set")
    return found


def main(
    place: Annotated[str, typer.Argument(metavar="SET", help="Folder or URL of the shard set.")],
    *,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Worker processes. Default: one per core.")
    ] = None,
) -> None:
    """Verify every byte of a shard set.

    Index files, shards and blocks are compared with their SHA-256, and contigs with the hash of their input sequence.
    Each mismatch is reported with its location: index file, shard, block (with its coordinates on the contig) or
    contig. A remote set is read twice, bypassing all caches.
    """
    shards = ShardSet.open(place, disk_cache_bytes=0)
    with percent_bar("verifying", total_work(shards)) as advance:
        found = list(problems(shards, workers or usable_cpus(), advance))
    if found:
        raise UserError("\nerror: ".join(found))
    bases = int(shards.index.contigs.length.sum())
    print(f"{shards.location}: OK ({bases:,} bases verified)")


if __name__ == "__main__":
    sys.exit(run(main, name="python -m sharding.verify"))
