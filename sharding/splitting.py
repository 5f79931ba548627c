"""The rule that assigns the bases of a shard set to splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ldarnet.data.contigs import Contigs
from ldarnet.errors import UserError
from ldarnet.genome.bed import BedInterval, read_bed
from ldarnet.genome.intervals import intersect, merge, subtract, total_bases
from ldarnet.io.files import file_size, read_errors, sha256_file
from sharding.splits import exclusions, read_splits_bed, splits_by_contig, splits_by_hash, splits_by_interval


@dataclass(frozen=True, slots=True)
class HashSplits:
    """Settings of splits by hashed tiles: the fraction of each split, the tile length in bases, and the seed."""

    fractions: Mapping[str, float]
    tile: int
    seed: int

    def __post_init__(self) -> None:
        if self.tile < 1:
            raise UserError(f"--hash-tile {self.tile}: must be at least 1")


class Splitting:
    """Assigns bases to splits by contig, BED file or hash; excluded intervals are in no split.

    Attributes:
        recipe: splits and exclusions as recorded in the index. A BED file is recorded by name, size and SHA-256.
    """

    def __init__(
        self,
        contigs: Mapping[str, Sequence[str]] | None = None,
        bed: Path | None = None,
        hashed: HashSplits | None = None,
        exclude: Sequence[Path] = (),
    ) -> None:
        """Read the BED files.

        Args:
            contigs: split name -> contigs; all other contigs belong to ``train``. Ignored if ``bed`` or
                ``hashed`` is given.
            bed: BED file of splits.
            hashed: splits by hashed tiles.
            exclude: BED files of intervals to exclude from every split.

        Raises:
            UserError: a BED file is malformed.
        """
        self._contigs = contigs or {}
        self._bed = (bed, read_splits_bed(bed)) if bed else None
        self._hashed = hashed
        self._exclude: list[tuple[Path, list[BedInterval]]] = [(path, list(read_bed(path))) for path in exclude]
        splits: dict[str, Any] = {name: list(names) for name, names in self._contigs.items()}
        if bed:
            splits = _describe(bed)
        elif hashed:
            splits = {"shares": dict(hashed.fractions), "tile": hashed.tile, "seed": hashed.seed}
        self.recipe = {"splits": splits, "exclude": [_describe(path) for path in exclude]}

    def apply(self, contigs: Contigs) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Assign the bases of contigs to splits.

        Returns:
            Two dicts whose keys are the split names. The first holds the intervals: (s, 3) int64, contig index, start
            and stop. The second holds the number of excluded bases; it is empty if there are no exclusions.

        Raises:
            UserError: a contig is unknown, an interval extends beyond its contig, splits overlap, or a split is empty.
        """
        splits = self._splits(contigs)
        if not self._exclude:
            return splits, {}
        excluded = merge(np.concatenate([exclusions(path, found, contigs) for path, found in self._exclude]))
        cut = {name: total_bases(intersect(rows, excluded)) for name, rows in splits.items()}
        return {name: subtract(rows, excluded, contigs.length) for name, rows in splits.items()}, cut

    def _splits(self, contigs: Contigs) -> dict[str, np.ndarray]:
        if self._bed:
            return splits_by_interval(*self._bed, contigs)
        if self._hashed:
            return splits_by_hash(self._hashed.fractions, self._hashed.tile, self._hashed.seed, contigs)
        return splits_by_contig(self._contigs, contigs)


def _describe(path: Path) -> dict[str, Any]:
    size = file_size(path)
    with read_errors(path):
        return {"name": path.name, "size": size, "sha256": sha256_file(path)}
