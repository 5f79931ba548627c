"""Check every byte of a shard set: ``python -m sharding.verify DIR``."""

import argparse
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ldarnet.data import ShardSet
from ldarnet.errors import UserError
from ldarnet.files import read_errors, sha256_file
from sharding.program import run


def problems(shards: ShardSet) -> Iterator[str]:
    """What is wrong with a shard set, one line for each shard, block or contig; nothing when all is well.

    Shards are compared with their size and SHA-256, blocks with theirs, and the letters of each contig with those that
    were in the FASTA file.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(lambda number: _shard_problem(shards, number), range(len(shards.index.shards))):
            yield from found
        for found in pool.map(lambda number: _contig_problems(shards, number), range(len(shards.index.contigs))):
            yield from found


def _shard_problem(shards: ShardSet, number: int) -> list[str]:
    shard = shards.index.shards[number]
    path, remedy = shards.folder / shard.name, f"delete {shards.folder} and build it again"
    if not path.is_file():
        return [f"{path}: missing; {remedy}"]
    if path.stat().st_size != shard.size:
        return [f"{path}: {path.stat().st_size} bytes where the index says {shard.size}; {remedy}"]
    try:
        with read_errors(path):
            digest = sha256_file(path)
    except UserError as error:
        return [str(error)]
    if digest != shard.sha256:
        return [f"{path}: damaged or changed since it was indexed; {remedy}"]
    return []


def _contig_problems(shards: ShardSet, number: int) -> list[str]:
    index = shards.index
    contig, digest = index.contigs[number], hashlib.sha256()
    found = []
    for block in range(*index.first_block[number : number + 2].tolist()):
        try:
            unpacked = shards.load(block)
        except UserError as error:
            found.append(str(error))
            continue
        digest.update(unpacked.text(0, unpacked.length))
    if not found and digest.hexdigest() != contig.sha256:
        found.append(f"{shards.folder}: contig {contig.name}: its letters are not those indexed; build it again")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sharding.verify", description="Check every byte of a shard set.")
    parser.add_argument("folder", type=Path, help="folder of the shard set")
    options = parser.parse_args(arguments)
    shards = ShardSet.open(options.folder)
    found = list(problems(shards))
    if found:
        raise UserError("\nerror: ".join(found))
    bases = sum(shards.contigs.values())
    print(f"all is well: {options.folder}: all {bases:,} bases match the index")
    return 0


if __name__ == "__main__":
    run(main)
