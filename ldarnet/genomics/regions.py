"""Selection of genome regions by name, coordinates or BED file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from ldarnet.errors import UserError
from ldarnet.genome.bed import is_position, read_bed
from ldarnet.genome.intervals import merge
from ldarnet.genomics.genome import Genome, GenomeRecord
from ldarnet.printable import printable

Intervals = np.ndarray
"""Intervals of one record: (n, 2) int64 with columns start and end on the contig; sorted, disjoint, not touching."""
Selection = dict[int, Intervals]
"""Number of a record -> its selected intervals."""

_MAX_NAMES = 5
_RANGE = re.compile(r"(.+):([0-9,]+)-([0-9,]+)")


def select(genome: Genome, regions: Sequence[str] = (), bed: Path | None = None) -> Selection:
    """Select the regions and the intervals of a BED file, merged; without either, the whole genome.

    Args:
        genome: the genome.
        regions: ``contig`` or ``contig:start-end``, 1-based and inclusive as in samtools and UCSC; commas are allowed.
        bed: BED file.

    Raises:
        UserError: a region is malformed or empty, extends beyond its contig, or is on a contig that is not in the
            genome; or the BED file cannot be read.
    """
    if not regions and bed is None:
        return {record.number: np.array([[record.start, record.end]]) for record in genome.records}
    found: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for region in locate(genome, regions, bed):
        found[region.record].append((0, region.start, region.end))
    return {number: merge(np.array(rows, dtype=np.int64))[:, 1:] for number, rows in sorted(found.items())}


@dataclass(frozen=True, slots=True)
class GenomeRegion:
    """A region of a genome.

    Attributes:
        name: column 4 of the BED file; the region itself if there is none.
        contig: name of the contig.
        start: position of the first base, 0-based.
        end: position after the last base.
        record: number of the record that contains it.
    """

    name: str
    contig: str
    start: int
    end: int
    record: int


def locate(genome: Genome, regions: Sequence[str] = (), bed: Path | None = None) -> Iterator[GenomeRegion]:
    """Yield the regions, and then the intervals of a BED file, in the order given; for arguments, see `select`.

    Raises:
        UserError: as in `select`.
    """
    records: dict[str, list[GenomeRecord]] = defaultdict(list)
    for record in genome.records:
        records[record.contig].append(record)

    def located(where: str, name: str, contig: str, start: int, end: int) -> GenomeRegion:
        if contig not in records:
            raise UserError(f"{where}: no contig {printable(contig)} in {genome.path}; {name_hint(contig, genome)}")
        inside = [record for record in records[contig] if record.start <= start and end <= record.end]
        if not inside:
            raise UserError(
                f"{where}: {_outside(contig, start, end, records[contig])} {genome.path}; is it of another assembly?"
            )
        return GenomeRegion(name or f"{contig}:{start + 1}-{end}", contig, start, end, inside[0].number)

    for text in regions:
        where = f"--region {printable(text)}"
        if text in records:
            for record in records[text]:
                yield located(where, text if len(records[text]) == 1 else "", text, record.start, record.end)
        else:
            yield located(where, text, *_parse(where, text))
    for interval in read_bed(bed, optional_name=True) if bed is not None else ():
        yield located(f"{bed}: line {interval.line}", interval.name, interval.contig, interval.start, interval.end)


def selected_bases(selection: Selection) -> int:
    """Total number of selected bases."""
    return sum(int((intervals[:, 1] - intervals[:, 0]).sum()) for intervals in selection.values())


def _parse(where: str, text: str) -> tuple[str, int, int]:
    """Parse a region that is not the name of a contig; return 0-based, half-open coordinates."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return text, 0, 0  # a name that the caller reports as unknown
    first, last = (number.replace(",", "") for number in match.groups()[1:])
    if not is_position(first) or not is_position(last) or int(first) < 1:
        raise UserError(f"{where}: not a region; write contig:start-end with positions from 1")
    if int(last) < int(first):
        raise UserError(f"{where}: empty, because it ends before it starts; write contig:start-end")
    return match[1], int(first) - 1, int(last)


def _outside(contig: str, start: int, end: int, records: Sequence[GenomeRecord]) -> str:
    place = f"{printable(contig)}:{start + 1:,}-{end:,}"
    if len(records) == 1 and records[0].start == 0:
        return f"{place} extends beyond the end of the contig ({records[0].end:,} bases) in"
    parts = ", ".join(f"{record.start + 1:,}-{record.end:,}" for record in records[:_MAX_NAMES])
    return f"{place} is not within one of the parts of this contig ({parts}) in"


def contig_synonyms(contig: str) -> list[str]:
    """Other names of a contig: with or without ``chr``, and those of the mitochondrion."""
    other = contig[3:] if contig.startswith("chr") else f"chr{contig}"
    mitochondrion = {"MT": "chrM", "chrM": "MT", "chrMT": "MT", "M": "chrM"}.get(contig)
    return [other, *([mitochondrion] if mitochondrion else ())]


def name_hint(contig: str, genome: Genome) -> str:
    """Hint for an unknown contig name, such as the same name with or without ``chr``."""
    for name in contig_synonyms(contig):
        if name in genome.sizes:
            return (
                f"this genome calls it {printable(name)}: use this name, or rename the contigs of the genome "
                "with --rename"
            )
    near = get_close_matches(contig, genome.sizes, n=1)
    known = [*near, *(name for name in genome.sizes if name not in near)]
    more = ", ..." if len(known) > _MAX_NAMES else ""
    return f"its contigs are {', '.join(map(printable, known[:_MAX_NAMES]))}{more}"
