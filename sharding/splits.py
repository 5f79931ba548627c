"""Which bases belong to which split: whole contigs, or the intervals of a BED file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldarnet.data.index import Contig, some_names
from ldarnet.errors import UserError
from ldarnet.files import file_size, read_errors

TRAIN = "train"


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """One line of a BED file: contig name, start and stop in bases from 0, line from 1, and split."""

    contig: str
    start: int
    stop: int
    line: int
    split: str


def parse_contig_splits(options: Sequence[str]) -> dict[str, list[str]]:
    """Read ``valid=chrI,chrVI`` options into split name -> contig names.

    Raises:
        UserError: an option of another form, a split named twice or a contig named twice.
    """
    splits: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for option in options:
        split, _, names = option.partition("=")
        contigs = [name for name in names.split(",") if name]
        if not split or not contigs:
            raise UserError(f"--split {option}: not a split; write it as NAME=CONTIG,CONTIG")
        if split in splits:
            raise UserError(f"--split {option}: split {split!r} is given twice; list all its contigs in one option")
        for name in contigs:
            if name in seen:
                raise UserError(f"--split {option}: contig {name!r} is in split {seen[name]!r} already; name it once")
            seen[name] = split
        splits[split] = contigs
    return splits


def splits_by_contig(wanted: Mapping[str, Sequence[str]], contigs: Sequence[Contig]) -> dict[str, np.ndarray]:
    """Whole contigs to splits; what is in no named split is ``train``.

    Returns:
        Split name -> (s, 3) int64, contig number, start and stop.

    Raises:
        UserError: a contig that is not in the input, or nothing is left for ``train``.
    """
    numbers = {contig.name: number for number, contig in enumerate(contigs)}
    split_of = dict.fromkeys(numbers, TRAIN)
    for split, names in wanted.items():
        for name in names:
            if name not in numbers:
                raise UserError(f"--split {split}: no contig {name!r} in the input; it holds {some_names(numbers)}")
            split_of[name] = split
    rows: dict[str, list[tuple[int, int, int]]] = {split: [] for split in (TRAIN, *wanted)}
    for name, split in split_of.items():
        rows[split].append((numbers[name], 0, contigs[numbers[name]].length))
    if not rows[TRAIN]:
        raise UserError(f"--split: every contig is taken, nothing is left for {TRAIN!r}; leave it at least one contig")
    return {split: np.array(intervals, dtype=np.int64) for split, intervals in rows.items()}


def read_bed(path: Path) -> list[Interval]:
    """Read lines ``contig start end split``, and find every mistake that shows without the contigs.

    Returns:
        The intervals, in order of the file.

    Raises:
        UserError: the file is missing or empty, a line is not BED, or intervals of two splits overlap.
    """
    intervals = [_interval(path, line, fields) for line, fields in _bed_lines(path)]
    if not intervals:
        raise UserError(f"{path}: empty; write one line for each interval: contig, start, end, split")
    _demand_one_split(path, intervals)
    return intervals


def splits_by_interval(path: Path, intervals: Sequence[Interval], contigs: Sequence[Contig]) -> dict[str, np.ndarray]:
    """Intervals of a BED file to splits; bases in no interval are in no split.

    Intervals of one split that overlap or touch are joined.

    Args:
        path: the file, for messages.
        intervals: what `read_bed` read from it.
        contigs: those of the input.

    Returns:
        Split name -> (s, 3) int64, contig number, start and stop, in order of contig and start.

    Raises:
        UserError: an interval names an unknown contig or reaches outside its contig.
    """
    numbers = {contig.name: number for number, contig in enumerate(contigs)}
    for interval in intervals:
        place, name = f"{path}: line {interval.line}", interval.contig
        if name not in numbers:
            raise UserError(f"{place}: no contig {name!r} in the input; it holds {some_names(numbers)}")
        length = contigs[numbers[name]].length
        if interval.stop > length:
            raise UserError(
                f"{place}: {name}:{interval.start}-{interval.stop} is not within the contig's 0-{length}; "
                "correct the interval"
            )
    splits: dict[str, list[list[int]]] = {}
    for number, start, stop, split in sorted((numbers[i.contig], i.start, i.stop, i.split) for i in intervals):
        rows = splits.setdefault(split, [])
        if rows and rows[-1][0] == number and start <= rows[-1][2]:
            rows[-1][2] = max(rows[-1][2], stop)
        else:
            rows.append([number, start, stop])
    return {split: np.array(rows, dtype=np.int64) for split, rows in splits.items()}


def _bed_lines(path: Path) -> list[tuple[int, list[str]]]:
    file_size(path)
    try:
        with read_errors(path):
            text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read as a BED file ({error}); name a plain text file") from None
    lines = enumerate((line.strip() for line in text.splitlines()), start=1)
    skipped = ("#", "track", "browser")
    return [(number, line.split()) for number, line in lines if line and not line.startswith(skipped)]


def _interval(path: Path, line: int, fields: list[str]) -> Interval:
    place = f"{path}: line {line}"
    if len(fields) < 4 or not (fields[1].isdecimal() and fields[2].isdecimal()):
        raise UserError(f"{place}: not a split interval; write contig, start, end and split with tabs between")
    name, start, stop, split = fields[0], int(fields[1]), int(fields[2]), fields[3]
    if start >= stop:
        raise UserError(f"{place}: {name}:{start}-{stop} holds no base; write the start, then the end after the last")
    return Interval(name, start, stop, line, split)


def _demand_one_split(path: Path, intervals: Sequence[Interval]) -> None:
    """Refuse intervals of two splits that overlap."""
    farthest: Interval | None = None
    for interval in sorted(intervals):
        if farthest is None or farthest.contig != interval.contig or farthest.stop <= interval.start:
            farthest = interval
        elif farthest.split != interval.split:
            raise UserError(
                f"{path}: line {interval.line}: split {interval.split!r} overlaps split {farthest.split!r} of line "
                f"{farthest.line}; give each base to one split"
            )
        elif farthest.stop < interval.stop:
            farthest = interval
