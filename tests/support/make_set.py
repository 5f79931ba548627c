"""A fixture that builds small shard sets."""

from pathlib import Path

import pytest

from ldarnet.data import ShardSet
from sharding.build import build


@pytest.fixture
def make_set(tmp_path_factory):
    """Build a shard set from contigs, given as name -> sequence."""

    def make(contigs: dict[str, str], splits: dict[str, list[str]] | None = None, bed: str | None = None, **options):
        folder: Path = tmp_path_factory.mktemp("set")
        fasta, splits_bed = folder / "in.fa", None
        fasta.write_text("".join(f">{name}\n{letters}\n" for name, letters in contigs.items()))
        if bed is not None:
            splits_bed = folder / "splits.bed"
            splits_bed.write_text(bed)
        build(folder / "set", [fasta], contig_splits=splits, splits_bed=splits_bed, **options)
        return ShardSet.open(folder / "set")

    return make
