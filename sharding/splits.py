"""Which bases belong to which split: whole contigs, or the intervals of a BED file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ldarnet.data.index import Contig, some_names
from ldarnet.errors import UserError

TRAIN = "train"


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


def splits_from_bed(path: Path, contigs: Sequence[Contig]) -> dict[str, np.ndarray]:
    """Intervals ``contig start end split`` to splits; bases in no interval are in no split.

    Intervals of one split that overlap or touch are joined.

    Returns:
        Split name -> (s, 3) int64, contig number, start and stop, in order of contig and start.

    Raises:
        UserError: the file is missing or empty, a line is not BED, an interval names an unknown contig or reaches
            outside its contig, or intervals of two splits overlap.
    """
    numbers = {contig.name: number for number, contig in enumerate(contigs)}
    rows = []
    for line, fields in _bed_lines(path):
        place = f"{path}: line {line}"
        if len(fields) < 4 or not (fields[1].isdecimal() and fields[2].isdecimal()):
            raise UserError(f"{place}: not a split interval; write contig, start, end and split with tabs between")
        name, start, stop, split = fields[0], int(fields[1]), int(fields[2]), fields[3]
        if name not in numbers:
            raise UserError(f"{place}: no contig {name!r} in the input; it holds {some_names(numbers)}")
        length = contigs[numbers[name]].length
        if not start < stop <= length:
            raise UserError(
                f"{place}: {name}:{start}-{stop} is not within the contig's 0-{length}; correct the interval"
            )
        rows.append((numbers[name], start, stop, line, split))
    if not rows:
        raise UserError(f"{path}: empty; write one line for each interval: contig, start, end, split")
    return _join(path, sorted(rows))


def _bed_lines(path: Path) -> list[tuple[int, list[str]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a BED file ({error}); name a plain text file") from None
    lines = enumerate((line.strip() for line in text.splitlines()), start=1)
    skipped = ("#", "track", "browser")
    return [(number, line.split()) for number, line in lines if line and not line.startswith(skipped)]


def _join(path: Path, rows: list[tuple[int, int, int, int, str]]) -> dict[str, np.ndarray]:
    splits: dict[str, list[list[int]]] = {}
    end, owner, owner_line = (-1, -1), "", 0
    for contig, start, stop, line, split in rows:
        intervals = splits.setdefault(split, [])
        if end[0] == contig and start < end[1] and split != owner:
            raise UserError(
                f"{path}: line {line}: split {split!r} overlaps split {owner!r} of line {owner_line}; "
                "give each base to one split"
            )
        if intervals and intervals[-1][0] == contig and start <= intervals[-1][2]:
            intervals[-1][2] = max(intervals[-1][2], stop)
        else:
            intervals.append([contig, start, stop])
        if (contig, stop) > end:
            end, owner, owner_line = (contig, stop), split, line
    return {split: np.array(intervals, dtype=np.int64) for split, intervals in splits.items()}
