"""Named genomic regions of a BED file, such as repeats and coding sequence, as boolean masks over windows."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from ldarnet.data.reader import ShardSet
from ldarnet.errors import UserError
from ldarnet.genome.bed import read_bed
from ldarnet.genome.intervals import merge

OTHER = "other"
"""Name of the region that consists of all bases outside the intervals."""
MAX_REGIONS = 32
"""Maximum number of region names, including `OTHER`. Metrics are reported per name: use classes, not gene names."""

Intervals = tuple[np.ndarray, np.ndarray]


class Regions:
    """The regions on the contigs of a split. A base belongs to every region that covers it, or to `OTHER` if none does.

    Attributes:
        names: names of the regions in alphabetical order, then `OTHER`.
    """

    def __init__(self, path: str | PathLike[str], shards: ShardSet, split: str) -> None:
        """Read a BED file, plain or compressed, with region names in column 4; skip contigs outside of the split.

        Raises:
            UserError: the file cannot be read or is not BED, has too many names, or has no interval in the split.
        """
        self._path = Path(path)
        found: defaultdict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
        numbers = _contigs_of(shards, split)
        for interval in read_bed(self._path, name="region", delimiter="\t"):
            if interval.name == OTHER:
                raise UserError(f"{path}: line {interval.line}: the name {OTHER!r} is reserved; rename this region")
            if interval.contig in numbers:
                found[numbers[interval.contig], interval.name].append((interval.start, interval.end))
        if not found:
            raise UserError(
                f"{path}: no interval on a contig of split {split!r} of {shards.location}; use the contig names of the "
                f"shard set, such as {next(iter(numbers), 'none')!r}"
            )
        self.names = [*sorted({name for _, name in found}), OTHER]
        if len(self.names) > MAX_REGIONS:
            raise UserError(
                f"{path}: {len(self.names) - 1} region names in column 4, but at most {MAX_REGIONS - 1} are supported; "
                "use classes such as repeat and coding"
            )
        self._merged = {key: _merged(np.array(pairs)) for key, pairs in found.items()}

    def masks(self, contig: Sequence[int] | np.ndarray, start: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
        """For each region, mark the bases of windows that it covers.

        Args:
            contig: (b,) contig number of each window.
            start: (b,) first base of each window.
            length: bases in a window.

        Returns:
            (len(names), b, length) bool, regions in the order of `names`.
        """
        masks = np.zeros((len(self.names), len(contig), length), dtype=bool)
        for row, (number, first) in enumerate(zip(contig, start, strict=True)):
            for region, name in enumerate(self.names[:-1]):
                intervals = self._merged.get((int(number), name))
                if intervals is not None:
                    masks[region, row] = _covered(intervals, int(first), length)
        masks[-1] = ~masks[:-1].any(0)
        return masks


def _contigs_of(shards: ShardSet, split: str) -> dict[str, int]:
    """Map the contig names of a split, full names and unique bare names, to contig numbers."""
    numbers = {shards.index.name(int(number)): int(number) for number in np.unique(shards.index.splits[split][:, 0])}
    names = shards.index.contigs.bare_names()
    owners = Counter(names[number] for number in numbers.values())
    return {names[number]: number for number in numbers.values() if owners[names[number]] == 1} | numbers


def _merged(pairs: np.ndarray) -> Intervals:
    """Merge intervals, (n, 2): return the sorted starts and ends of their union."""
    rows = merge(np.column_stack((np.zeros(len(pairs), dtype=np.int64), pairs)))
    return rows[:, 1], rows[:, 2]


def _covered(intervals: Intervals, first: int, length: int) -> np.ndarray:
    """Whether each of ``length`` bases from ``first`` is in an interval, (length,) bool."""
    starts, ends = intervals
    part = slice(np.searchsorted(ends, first, side="right"), np.searchsorted(starts, first + length))
    change = np.zeros(length + 1, dtype=np.int8)
    change[np.maximum(starts[part] - first, 0)] += 1
    change[np.minimum(ends[part] - first, length)] -= 1
    return change.cumsum()[:length] > 0
