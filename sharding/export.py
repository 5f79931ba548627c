"""Give back the sequences of a shard set as FASTA: ``python -m sharding.export DIR --out FILE``."""

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from xopen import xopen

from ldarnet.console import percent_bar
from ldarnet.data import ShardSet
from ldarnet.data.contigs import some_names
from ldarnet.data.index import Index
from ldarnet.errors import UserError
from ldarnet.io.files import atomic_path
from sharding.program import run

_WIDTH = 60
_FORMATS = {".gz": ("gz", 1), ".zst": ("zst", 3)}
"""Suffix -> format and level: those that pack bases quickly; higher ones gain a few per cent."""
_REGION = re.compile(r"(.+):([\d,]*)(-?)([\d,]*)")
_AHEAD_BLOCKS = 16
_NEWLINE = ord("\n")


@dataclass(frozen=True, slots=True)
class Record:
    """A FASTA record to be: its name, and the stretch of a contig (number, first base from 0, end) that it holds."""

    name: str
    contig: int
    start: int
    stop: int


def whole_contigs(index: Index, species: Sequence[str] = ()) -> list[Record]:
    """A record for each contig, of the named species or of all.

    Contigs of one species bear the names that they had in the input, those of several ``species/name``.

    Raises:
        UserError: no such species.
    """
    if unknown := [name for name in species if name not in index.species]:
        raise UserError(f"--species {unknown[0]}: not in the set; it holds {some_names(index.species)}")
    wanted = [index.species.index(name) for name in species] or range(len(index.species))
    contigs = np.flatnonzero(np.isin(index.contigs.species, wanted)).tolist()
    prefix = len(f"{index.species[wanted[0]]}/") if len(wanted) == 1 and index.species[wanted[0]] else 0
    lengths = index.contigs.length
    return [Record(index.name(contig)[prefix:], contig, 0, int(lengths[contig])) for contig in contigs]


def regions(index: Index, texts: Sequence[str]) -> list[Record]:
    """A record for each contig name or region ``contig:first-last``, from 1 and with the last base, as in samtools.

    Raises:
        UserError: no such contig, or a region that is not within it.
    """
    return [_region(index, text) for text in texts]


def _region(index: Index, text: str) -> Record:
    try:
        contig = index.number(text)
        return Record(text, contig, 0, int(index.contigs.length[contig]))
    except UserError as error:
        parts = _REGION.fullmatch(text)
        if not parts:
            raise UserError(f"region {text}: {error}") from None
    name, first, dash, last = parts.groups()
    try:
        contig = index.number(name)
    except UserError as error:
        raise UserError(f"region {text}: {error}") from None
    length = int(index.contigs.length[contig])
    begin = int(first.replace(",", "") or 1)
    end = int(last.replace(",", "") or length) if dash or not last else length
    if not 1 <= begin <= end <= length:
        raise UserError(f"region {text}: {name} has {length} bases; write first-last from 1 to {length}")
    return Record(f"{name}:{begin}-{end}", contig, begin - 1, end)


def intervals(index: Index, split: str) -> list[Record]:
    """A record ``contig:first-last`` for each interval of a split, numbered as in `regions`.

    Raises:
        UserError: no such split.
    """
    if split not in index.splits:
        raise UserError(f"--split {split}: not in the set; it holds {some_names(index.splits)}")
    rows = index.splits[split].tolist()
    return [Record(f"{index.name(contig)}:{start + 1}-{stop}", contig, start, stop) for contig, start, stop in rows]


def letters(shards: ShardSet, record: Record) -> Iterator[np.ndarray]:
    """The letters of a record, exactly as they stood in the input, in pieces of at most one block: (n,) uint8."""
    index = shards.index
    first, last = index.first_block[record.contig : record.contig + 2].tolist()
    starts = index.blocks.start[first:last]
    begin = first + int(np.searchsorted(starts, record.start, side="right")) - 1
    end = first + int(np.searchsorted(starts, record.stop, side="left"))
    for number in range(begin, end):
        shards.prefetch(range(number, min(number + _AHEAD_BLOCKS, end)))
        origin, block = int(index.blocks.start[number]), shards.load(number)
        text = block.text(max(record.start - origin, 0), min(record.stop - origin, block.length))
        yield np.frombuffer(text, dtype=np.uint8)


def fasta(shards: ShardSet, record: Record, width: int = _WIDTH) -> Iterator[bytes]:
    """A record as FASTA, in pieces of about a block."""
    yield f">{record.name}\n".encode()
    open_line = np.zeros(0, dtype=np.uint8)
    for piece in letters(shards, record):
        text = np.concatenate((open_line, piece))
        whole = len(text) // width
        lines = np.full((whole, width + 1), _NEWLINE, dtype=np.uint8)
        lines[:, :width] = text[: whole * width].reshape(whole, width)
        open_line = text[whole * width :]
        yield lines.tobytes()
    if len(open_line):
        yield open_line.tobytes() + b"\n"


def export(shards: ShardSet, records: Sequence[Record], out: str, *, width: int = _WIDTH, quiet: bool = False) -> int:
    """Write records as FASTA. The file is complete or absent.

    Args:
        shards: the set.
        records: what to write.
        out: ``-`` for standard output, or a path; one that ends with ``.gz`` or ``.zst`` is packed so.
        width: letters in a line.
        quiet: show no progress.

    Returns:
        Bases written.

    Raises:
        UserError: a shard is missing or damaged, or the device is full.
    """
    if width < 1:
        raise UserError(f"--width {width}: it must be at least 1")
    total = sum(record.stop - record.start for record in records)
    with _opened(out) as file, percent_bar("exporting", total, quiet=quiet) as advance:
        for record in records:
            for piece in fasta(shards, record, width):
                file.write(piece)
                advance(len(piece))
    return total


@contextmanager
def _opened(out: str) -> Iterator[BinaryIO]:
    if out == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if not Path(out).parent.is_dir():
        raise UserError(f"{out}: there is no folder {Path(out).parent}; make it or name another --out")
    if Path(out).exists() and not Path(out).is_file():
        raise UserError(f"{out}: is there, and is no file; name another --out, or - for the standard output")
    packing = _FORMATS.get(Path(out).suffix)
    with atomic_path(out) as partial:
        if packing:
            with xopen(partial, "wb", format=packing[0], compresslevel=packing[1], threads=0) as file:
                yield file
        else:
            with partial.open("wb") as file:
                yield file


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sharding.export",
        description="Give back the sequences of a shard set as FASTA: case, N and IUPAC codes as they were. Of a "
        "header its first word is kept.",
        epilog="Regions are written as for samtools: chr1:101-200 is 100 bases, from the 101st, counted from 1, to the "
        "200th; chr1:101- goes on to the end; thousands may be parted by commas. (BED files count from 0 and leave the "
        "end out: `chr1 100 200` is the same stretch.)",
    )
    parser.add_argument("place", help="folder or URL of the shard set")
    parser.add_argument("region", nargs="*", help="contigs or regions contig:first-last; none: all contigs")
    parser.add_argument(
        "--out", default="-", help="FASTA file, packed if it ends with .gz or .zst (default: standard output)"
    )
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--species", action="append", default=[], help="all contigs of a species (repeatable)")
    others.add_argument("--split", help="the intervals of a split, each named contig:first-last")
    parser.add_argument("--width", type=int, default=_WIDTH, help="letters in a line (%(default)s)")
    options = parser.parse_args(arguments)
    if options.region and (options.species or options.split):
        parser.error("name regions, --species or --split, but one of them only")
    shards = ShardSet.open(options.place)
    if options.region:
        records = regions(shards.index, options.region)
    elif options.split:
        records = intervals(shards.index, options.split)
    else:
        records = whole_contigs(shards.index, options.species)
    try:
        bases = export(shards, records, options.out, width=options.width)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever reads, as `head` does, has enough
        return 0
    if options.out != "-":
        print(f"exported: {options.out}: {len(records):,} records, {bases:,} bases")
    return 0


if __name__ == "__main__":
    run(main)
