"""Write the sequences of a shard set as FASTA: ``ldarnet unshard SET --out FILE``."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import numpy as np
import typer
from xopen import xopen

from ldarnet.console import percent_bar
from ldarnet.data import ShardSet
from ldarnet.data.contigs import some_names
from ldarnet.data.index import Index
from ldarnet.errors import UserError
from ldarnet.io.files import atomic_path
from ldarnet.program import run

_WIDTH = 60
_FORMATS = {".gz": ("gz", 1), ".zst": ("zst", 3)}
"""Suffix -> compression format and level. Higher levels save only a few percent more."""
_REGION = re.compile(r"(.+):([0-9,]{0,20})(-?)([0-9,]{0,20})")
_AHEAD_BLOCKS = 16
_NEWLINE = ord("\n")


@dataclass(frozen=True, slots=True)
class FastaRecord:
    """A FASTA record: its name, and its interval as contig index, start and stop (0-based, half-open)."""

    name: str
    contig: int
    start: int
    stop: int


def whole_contigs(index: Index, species: Sequence[str] = ()) -> list[FastaRecord]:
    """Create one record per contig of the given species, or of all species if none is given.

    If a single species is exported, the records have the contig names of the input; otherwise, they are named
    ``species/contig``.

    Raises:
        UserError: no such species.
    """
    if unknown := [name for name in species if name not in index.species]:
        raise UserError(f"--species {unknown[0]}: no such species in the set; use one of {some_names(index.species)}")
    selected = [index.species.index(name) for name in species] or range(len(index.species))
    contigs = np.flatnonzero(np.isin(index.contigs.species, selected)).tolist()
    prefix = len(f"{index.species[selected[0]]}/") if len(selected) == 1 and index.species[selected[0]] else 0
    lengths = index.contigs.length
    return [FastaRecord(index.name(contig)[prefix:], contig, 0, int(lengths[contig])) for contig in contigs]


def regions(index: Index, texts: Sequence[str]) -> list[FastaRecord]:
    """Create one record per text. A text is a contig name or a region ``contig:first-last``.

    Regions are 1-based and inclusive, as in samtools.

    Raises:
        UserError: no such contig, or the region extends beyond the contig.
    """
    return [_region(index, text) for text in texts]


def _region(index: Index, text: str) -> FastaRecord:
    try:
        contig = index.number(text)
        return FastaRecord(text, contig, 0, int(index.contigs.length[contig]))
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
        raise UserError(
            f"region {text}: {name} has {length} bases; use {name}:FIRST-LAST with 1 <= FIRST <= LAST <= {length}"
        )
    return FastaRecord(f"{name}:{begin}-{end}", contig, begin - 1, end)


def intervals(index: Index, split: str) -> list[FastaRecord]:
    """Create one record per interval of a split. Records are named ``contig:first-last`` (1-based and inclusive).

    Raises:
        UserError: no such split.
    """
    if split not in index.splits:
        raise UserError(f"--split {split}: no such split in the set; use one of {some_names(index.splits)}")
    rows = index.splits[split].tolist()
    return [
        FastaRecord(f"{index.name(contig)}:{start + 1}-{stop}", contig, start, stop) for contig, start, stop in rows
    ]


def sequence(shards: ShardSet, record: FastaRecord) -> Iterator[np.ndarray]:
    """Yield the sequence of a record, exactly as in the input, as (n,) uint8 arrays of at most one block."""
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


def fasta(shards: ShardSet, record: FastaRecord, width: int = _WIDTH) -> Iterator[bytes]:
    """Yield a record as FASTA, in pieces of about one block."""
    yield f">{record.name}\n".encode()
    open_line = np.zeros(0, dtype=np.uint8)
    for piece in sequence(shards, record):
        text = np.concatenate((open_line, piece))
        whole = len(text) // width
        lines = np.full((whole, width + 1), _NEWLINE, dtype=np.uint8)
        lines[:, :width] = text[: whole * width].reshape(whole, width)
        open_line = text[whole * width :]
        yield lines.tobytes()
    if len(open_line):
        yield open_line.tobytes() + b"\n"


def export(
    shards: ShardSet, records: Sequence[FastaRecord], out: str, *, width: int = _WIDTH, quiet: bool = False
) -> int:
    """Write records as FASTA. If an error occurs, no file is left behind.

    Args:
        shards: the set.
        records: the records, in output order.
        out: path of the file, compressed if it ends with ``.gz`` or ``.zst``; ``-`` for standard output.
        width: bases per line.
        quiet: show no progress bar.

    Returns:
        Number of bases written.

    Raises:
        UserError: a shard is missing or damaged, or the disk is full.
    """
    if width < 1:
        raise UserError(f"--width {width}: must be at least 1")
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
        raise UserError(f"{out}: folder {Path(out).parent} does not exist; create it or choose another --out")
    if Path(out).exists() and not Path(out).is_file():
        raise UserError(f"{out}: exists and is not a file; choose another --out, or - for standard output")
    compression = _FORMATS.get(Path(out).suffix)
    with atomic_path(out) as partial:
        if compression:
            with xopen(partial, "wb", format=compression[0], compresslevel=compression[1], threads=0) as file:
                yield file
        else:
            with partial.open("wb") as file:
                yield file


def main(
    place: Annotated[str, typer.Argument(metavar="SET", help="Folder or URL of the shard set.")],
    region: Annotated[
        list[str] | None,
        typer.Argument(metavar="REGION", help="Contigs, or regions contig:first-last. Default: all contigs."),
    ] = None,
    *,
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="Output file, compressed if its name ends with .gz or .zst; - is standard output."
        ),
    ] = "-",
    species: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Export all contigs of this species (repeatable).")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Export the intervals of this split. Each record is named contig:first-last."
        ),
    ] = None,
    width: Annotated[int, typer.Option(min=1, metavar="BASES", help="Bases per line.")] = _WIDTH,
) -> None:
    """Write the sequences of a shard set as FASTA.

    Case, N and IUPAC codes of the input are preserved; headers are truncated after the first word. Regions are 1-based
    and inclusive, as in samtools: chr1:101-200 has 100 bases, and chr1:101- extends to the end of chr1. Commas in
    numbers are ignored.
    """
    if sum(map(bool, (region, species, split))) > 1:
        raise UserError("regions, --species and --split are mutually exclusive; use one of them")
    shards = ShardSet.open(place)
    if region:
        records = regions(shards.index, region)
    elif split:
        records = intervals(shards.index, split)
    else:
        records = whole_contigs(shards.index, species or [])
    bases = export(shards, records, out, width=width)
    if out != "-":
        print(f"exported {bases:,} bases in {len(records):,} record{'' if len(records) == 1 else 's'} to {out}")


if __name__ == "__main__":
    sys.exit(run(main, name="python -m sharding.export"))
