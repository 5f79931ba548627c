"""Named regions of a genome from a BED file, such as repeats and genes, laid over windows."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from xopen import xopen

from ldarnet.data.reader import ShardSet
from ldarnet.errors import UserError
from ldarnet.io.files import read_errors

OTHER = "other"
"""The region of all bases that no line of the file covers."""
MOST = 32
"""Names in a file; a column of gene names is a mistake."""

Intervals = tuple[np.ndarray, np.ndarray]


class Regions:
    """The regions of the contigs of one split. A base belongs to every region that covers it, or else to `OTHER`.

    Attributes:
        names: of the regions in alphabetical order, `OTHER` last.
    """

    def __init__(self, path: str | PathLike[str], shards: ShardSet, split: str) -> None:
        """Read a BED file, plain or compressed, with a name in its fourth column.

        Contigs that are not in the split are passed over.

        Raises:
            UserError: the file cannot be read or is no such file, has too many names, or nothing of it is in the split.
        """
        self._path = Path(path)
        found: defaultdict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
        numbers = _contigs_of(shards, split)
        for contig, start, end, name in self._lines():
            if contig in numbers:
                found[numbers[contig], name].append((start, end))
        if not found:
            raise UserError(
                f"{path}: no line of it lies on a contig of split {split!r} of {shards.place}, such as "
                f"{next(iter(numbers), 'none')!r}; name the contigs as the shard set does"
            )
        self.names = [*sorted({name for _, name in found}), OTHER]
        if len(self.names) > MOST:
            raise UserError(
                f"{path}: {len(self.names) - 1} names of regions in column 4; at most {MOST - 1}, such as repeat and "
                "coding"
            )
        self._merged = {key: _merged(np.array(pairs)) for key, pairs in found.items()}

    def masks(self, contig: Sequence[int] | np.ndarray, start: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
        """Which bases of windows belong to which region.

        Args:
            contig: contig number of each window, (b,).
            start: first base of each window, (b,).
            length: bases of a window.

        Returns:
            (names, b, length) bool.
        """
        masks = np.zeros((len(self.names), len(contig), length), dtype=bool)
        for row, (number, first) in enumerate(zip(contig, start, strict=True)):
            for region, name in enumerate(self.names[:-1]):
                intervals = self._merged.get((int(number), name))
                if intervals is not None:
                    masks[region, row] = _covered(intervals, int(first), length)
        masks[-1] = ~masks[:-1].any(0)
        return masks

    def _lines(self) -> Iterator[tuple[str, int, int, str]]:
        """Contig, first base, base after the last, name."""
        try:
            with read_errors(self._path), xopen(self._path, encoding="utf-8", threads=0) as file:
                for number, line in enumerate(file, start=1):
                    if not is_bed_comment(line):
                        yield self._parsed(number, line)
        except UserError:
            raise
        except Exception as error:  # each decompressor has a class of its own
            raise UserError(f"{self._path}: cannot be read ({error}); write or fetch it again") from None

    def _parsed(self, number: int, line: str) -> tuple[str, int, int, str]:
        columns = line.rstrip("\r\n").split("\t")
        try:
            contig, start, end, name = columns[0], int(columns[1]), int(columns[2]), columns[3].strip()
        except (IndexError, ValueError):
            raise UserError(
                f"{self._path}, line {number}: no line of a BED file with contig, start, end and the name of a region, "
                "between tabs; mend it"
            ) from None
        if not 0 <= start < end or name in ("", OTHER):
            raise UserError(
                f"{self._path}, line {number}: needs 0 <= start < end and a name that is not {OTHER!r}; it has "
                f"{start}, {end} and {name!r}"
            )
        return contig, start, end, name


def is_bed_comment(line: str) -> bool:
    """Whether a line of a BED file holds no interval; a contig may be called track1."""
    words = line.split(maxsplit=1)
    return not words or words[0].startswith("#") or words[0] in ("track", "browser")


def _contigs_of(shards: ShardSet, split: str) -> dict[str, int]:
    """Numbers of the contigs of a split by full name, and by bare name where that tells one contig."""
    numbers = {shards.index.name(int(number)): int(number) for number in np.unique(shards.index.splits[split][:, 0])}
    names = shards.index.contigs.bare_names()
    owners = Counter(names[number] for number in numbers.values())
    return {names[number]: number for number in numbers.values() if owners[names[number]] == 1} | numbers


def _merged(pairs: np.ndarray) -> Intervals:
    """Starts and ends of the union of intervals (n, 2), in order and apart."""
    starts, ends = pairs[np.argsort(pairs[:, 0], kind="stable")].T
    ends = np.maximum.accumulate(ends)
    first = np.concatenate([[True], starts[1:] > ends[:-1]])
    return starts[first], ends[np.concatenate([first[1:], [True]])]


def _covered(intervals: Intervals, first: int, length: int) -> np.ndarray:
    """Which of the bases from `first` on intervals cover, (length,) bool."""
    starts, ends = intervals
    part = slice(np.searchsorted(ends, first, side="right"), np.searchsorted(starts, first + length))
    change = np.zeros(length + 1, dtype=np.int8)
    change[np.maximum(starts[part] - first, 0)] += 1
    change[np.minimum(ends[part] - first, length)] -= 1
    return change.cumsum()[:length] > 0
