"""Named genomic regions of a BED or GFF3 file, such as repeats and coding sequence, as boolean masks over windows."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from ldarnet.data.contig_names import contig_numbers, translation
from ldarnet.data.reader import ShardSet
from ldarnet.errors import UserError
from ldarnet.genome.bed import read_bed
from ldarnet.genome.gff import is_gff, read_gff
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

    def __init__(
        self,
        path: str | PathLike[str],
        shards: ShardSet,
        split: str,
        *,
        features: Sequence[str] = (),
        contigs: Path | Mapping[str, str] | None = None,
    ) -> None:
        """Read a BED or GFF3 file, plain or compressed; skip contigs outside of the split.

        Args:
            path: BED file with region names in column 4, or GFF3 file, whose region names are the feature types.
            shards: the shard set.
            split: name of the split.
            features: region names to read; by default all.
            contigs: contig name in the regions file -> contig name in the set, or a file with these two columns. Names
                that are not listed are the same in both.

        Raises:
            UserError: the file cannot be read, is neither BED nor GFF3, has an interval that extends beyond its contig,
                has too many region names, uses the reserved name `OTHER`, or has no interval on a contig of the split;
                or a name in ``features`` is not in the file.
        """
        self._path = Path(path)
        names = translation(contigs)
        found: defaultdict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
        in_split = set(np.unique(shards.index.splits[split][:, 0]).tolist())
        numbers = contig_numbers(shards, preferred=in_split)
        unseen = set(features)
        is_feature_file = is_gff(self._path)
        intervals = read_gff(self._path) if is_feature_file else read_bed(self._path, name="region", delimiter="\t")
        for interval in intervals:
            unseen.discard(interval.name)
            if features and interval.name not in features:
                continue
            place = f"{path}: line {interval.line}"
            if interval.name == OTHER:
                raise UserError(f"{place}: the name {OTHER!r} is reserved; rename this region")
            number = numbers.get(names.get(interval.contig, interval.contig))
            if number is not None:
                shards.index.contigs.check_interval(number, interval.start, interval.end, place)
                if number in in_split:
                    found[number, interval.name].append((interval.start, interval.end))
        if unseen:
            raise UserError(f"{path}: no region named {min(unseen)!r}; correct validation.regions_features")
        if not in_split:
            raise UserError(f"{shards.location}: split {split!r} has no contigs; choose another split")
        if not found:
            raise UserError(
                f"{path}: no interval is on a contig of split {split!r} of {shards.location}; use the contig names of "
                f"the shard set, such as {shards.index.name(min(in_split))!r}, or set validation.regions_contigs"
            )
        self.names = [*sorted({name for _, name in found}), OTHER]
        if len(self.names) > MAX_REGIONS:
            column = "column 3" if is_feature_file else "column 4"
            raise UserError(
                f"{path}: {len(self.names) - 1} region names in {column}, but at most {MAX_REGIONS - 1} are supported; "
                "choose some with validation.regions_features, or use fewer, broader names, such as repeat and coding"
            )
        self._merged = {key: _merged(np.array(pairs)) for key, pairs in found.items()}

    def masks(self, contig: Sequence[int] | np.ndarray, start: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
        """For each region, mark the bases that it covers in each window.

        Args:
            contig: (b,) contig index of each window.
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


def _merged(pairs: np.ndarray) -> Intervals:
    """Merge intervals, (n, 2) with columns start and end; return the starts and the ends of the result, sorted."""
    rows = merge(np.column_stack((np.zeros(len(pairs), dtype=np.int64), pairs)))
    return rows[:, 1], rows[:, 2]


def _covered(intervals: Intervals, first: int, length: int) -> np.ndarray:
    """Whether each of the ``length`` bases from ``first`` on is in an interval, (length,) bool."""
    starts, ends = intervals
    part = slice(np.searchsorted(ends, first, side="right"), np.searchsorted(starts, first + length))
    change = np.zeros(length + 1, dtype=np.int8)
    change[np.maximum(starts[part] - first, 0)] += 1
    change[np.minimum(ends[part] - first, length)] -= 1
    return change.cumsum()[:length] > 0
