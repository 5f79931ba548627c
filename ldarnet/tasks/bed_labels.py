"""Labels of bases from a BED file whose fourth column contains classes."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from ldarnet.console import format_count
from ldarnet.errors import UserError
from ldarnet.genome.bed import BedInterval, read_bed
from ldarnet.genome.contig_names import place_of
from ldarnet.genome.fasta import read_records
from ldarnet.printable import printable
from ldarnet.tasks.base_labels import MAX_CLASSES
from ldarnet.tasks.rows import Records, check_length, check_rows

BACKGROUND = "none"
"""Class of bases outside all intervals."""


def read_sequences(path: Path) -> Records:
    """Read the sequences of a FASTA or .2bit file, without labels; names are those of `samtools faidx`.

    Raises:
        UserError: the file is missing, damaged or malformed, has a name twice, or exceeds a limit.
    """
    locations: list[int | str] = []
    names, sequences = list[str](), list[str]()
    known = set[str]()
    for header, sequence in read_records(path):
        if header.name in known:
            raise UserError(f"{path}: {header.name!r} occurs twice; the BED file needs a distinct name per sequence")
        known.add(header.name)
        check_rows(path, len(names) + 1)
        check_length(f"{path}: {header.name!r}", len(sequence), "sequence")
        locations.append(printable(header.name))
        names.append(header.name)
        sequences.append(sequence)
    return Records(path, "sequence", locations, names, sequences, [""] * len(names))


def labels_from_bed(bed: Path, splits: dict[str, Records]) -> tuple[list[str], dict[str, np.ndarray], list[str]]:
    """Read the classes of bases; the strand column is ignored.

    Coordinates are those of the sequences. If a sequence is named after its place in a genome (see `place_of`), such as
    `chr7:1001-2000`, and the file has no intervals on this name, they are those of the contig; parts of intervals
    beyond the sequence are ignored.

    Args:
        bed: BED file.
        splits: sequences of each split; the classes are those of the intervals on training sequences.

    Returns:
        Class names, with `BACKGROUND` first; for each split, (n,) objects as in `read_base_labels`; and notes.

    Raises:
        UserError: an interval ends beyond its sequence, has a class that training does not have, or overlaps one of
            another class; no interval is on a training sequence; or column 4 contains no class names.
    """
    of_contig: defaultdict[str, list[BedInterval]] = defaultdict(list)
    for interval in read_bed(bed, name="a class"):
        of_contig[interval.contig].append(interval)
    contigs = {name: _Intervals(found) for name, found in of_contig.items()}
    on_rows = {
        split: [_on(contigs, *row) for row in zip(records.names, records.sequences, strict=True)]
        for split, records in splits.items()
    }
    found = {one.name for _, intervals in on_rows["train"] for one in intervals}
    if not found or found == {BACKGROUND}:
        raise UserError(
            f"{bed}: no interval is on a sequence of {splits['train'].path}; column 1 must contain names of sequences, "
            "or of contigs if sequences are named contig:start-end"
        )
    if wrong := sorted(name for name in found if name == "." or "," in name):
        raise UserError(
            f"{bed}: {printable(wrong[0])!r} is not a class; column 4 must contain the class of each interval, a name "
            "without commas"
        )
    if len(found) >= MAX_CLASSES:
        raise UserError(f"{bed}: more than {MAX_CLASSES - 1} classes; column 4 must contain the class of each interval")
    classes = [BACKGROUND, *sorted(found - {BACKGROUND})]
    number = {name: label for label, name in enumerate(classes)}
    labels = {}
    for split, records in splits.items():
        labels[split] = np.empty(len(records), dtype=object)
        rows = zip(records.names, records.sequences, on_rows[split], strict=True)
        for row, (name, sequence, (start, intervals)) in enumerate(rows):
            labels[split][row] = _of_sequence(bed, name, start, len(sequence), intervals, number)
    used = {one.line for rows in on_rows.values() for _, intervals in rows for one in intervals}
    other = sum(map(len, of_contig.values())) - len(used)
    notes = [f"{format_count(other, 'interval')} of {bed} on other sequences"] if other else []
    return classes, labels, notes


class _Intervals:
    """Intervals of a contig."""

    def __init__(self, intervals: list[BedInterval]) -> None:
        self.all = intervals
        self._starts, self._ends = (np.array([getattr(one, key) for one in intervals]) for key in ("start", "end"))

    def within(self, start: int, end: int) -> list[BedInterval]:
        return [self.all[index] for index in np.flatnonzero((self._starts < end) & (self._ends > start))]


def _on(contigs: dict[str, _Intervals], name: str, sequence: str) -> tuple[int | None, list[BedInterval]]:
    """Start of a sequence on its contig, None if its name has no place that is used; and the intervals on it."""
    if name in contigs:
        return None, contigs[name].all
    contig, start = place_of(name, len(sequence))
    return start, contigs[contig].within(start, start + len(sequence)) if contig in contigs else []


def _of_sequence(
    bed: Path, name: str, start: int | None, length: int, intervals: list[BedInterval], number: dict[str, int]
) -> bytes:
    labels, covered = np.zeros(length, dtype=np.uint8), np.zeros(length, dtype=bool)
    for one in intervals:
        where = f"{bed}: line {one.line}"
        if start is None and one.end > length:
            raise UserError(
                f"{where}: the interval ends at {one.end:,}, but {printable(name)!r} has {length:,} bases; fix the "
                "interval"
            )
        if one.name not in number:
            raise UserError(
                f"{where}: class {printable(one.name)!r} does not occur in training; its classes are "
                f"{', '.join(map(printable, number))}; fix the class"
            )
        part = slice(max(0, one.start - (start or 0)), one.end - (start or 0))
        if (covered[part] & (labels[part] != number[one.name])).any():
            raise UserError(
                f"{where}: overlaps an interval of another class on {printable(name)!r}; give each base one class"
            )
        labels[part], covered[part] = number[one.name], True
    return labels.tobytes()
