"""Labels of bases from a BED file whose first column has the names of sequences and whose fourth has classes."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from ldarnet.console import format_count
from ldarnet.errors import UserError
from ldarnet.genome.bed import BedInterval, read_bed
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

    Args:
        bed: BED file.
        splits: sequences of each split; the classes are those of the intervals on training sequences.

    Returns:
        Class names, with `BACKGROUND` first; for each split, (n,) objects as in `read_base_labels`; and notes.

    Raises:
        UserError: an interval ends beyond its sequence, has a class that training does not have, or overlaps one of
            another class; or no interval is on a training sequence.
    """
    intervals: defaultdict[str, list[BedInterval]] = defaultdict(list)
    for interval in read_bed(bed, name="a class"):
        intervals[interval.contig].append(interval)
    found = {one.name for name in splits["train"].names for one in intervals.get(name, ())}
    if not found or found == {BACKGROUND}:
        raise UserError(
            f"{bed}: no interval is on a sequence of {splits['train'].path}; column 1 must contain names of sequences"
        )
    if len(found) >= MAX_CLASSES:
        raise UserError(f"{bed}: more than {MAX_CLASSES - 1} classes; column 4 must contain the class of each interval")
    classes = [BACKGROUND, *sorted(found - {BACKGROUND})]
    number = {name: label for label, name in enumerate(classes)}
    labels = {}
    for split, records in splits.items():
        labels[split] = np.empty(len(records), dtype=object)
        for row, (name, sequence) in enumerate(zip(records.names, records.sequences, strict=True)):
            labels[split][row] = _of_sequence(bed, name, len(sequence), intervals.get(name, []), number)
    used = {name for records in splits.values() for name in records.names}
    other = sum(len(of_name) for name, of_name in intervals.items() if name not in used)
    notes = [f"{format_count(other, 'interval')} of {bed} on other sequences"] if other else []
    return classes, labels, notes


def _of_sequence(bed: Path, name: str, length: int, intervals: list[BedInterval], number: dict[str, int]) -> bytes:
    labels, covered = np.zeros(length, dtype=np.uint8), np.zeros(length, dtype=bool)
    for one in intervals:
        where = f"{bed}: line {one.line}"
        if one.end > length:
            raise UserError(
                f"{where}: the interval ends at {one.end:,}, but {printable(name)!r} has {length:,} bases; fix the "
                "interval"
            )
        if one.name not in number:
            raise UserError(
                f"{where}: class {printable(one.name)!r} does not occur in training; its classes are "
                f"{', '.join(map(printable, number))}; fix the class"
            )
        part = slice(one.start, one.end)
        if (covered[part] & (labels[part] != number[one.name])).any():
            raise UserError(
                f"{where}: overlaps an interval of another class on {printable(name)!r}; give each base one class"
            )
        labels[part], covered[part] = number[one.name], True
    return labels.tobytes()
