"""Index of a huge synthetic shard set, to time opening a set and locating windows. The set has no shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ldarnet.data.blocks import Blocks
from ldarnet.data.contigs import Contigs, names_as_lines
from ldarnet.data.index import Index
from ldarnet.data.index_file import Shard

SPECIES = 850
BASES_PER_CONTIG = 174_000
BASES_PER_RUN = 58_000
BLOCK_BASES = 2**20
FRAME_BYTES = BLOCK_BASES // 4 + 512  # with the tar header
BLOCKS_PER_SHARD = 2**10
SHARD_BYTES = BLOCKS_PER_SHARD * FRAME_BYTES
VALID_FRACTION = 0.01


def synthetic_set(folder: Path, bases: int, species: int = SPECIES) -> Index:
    """Write the index of a synthetic shard set with many contigs and species; no shards are written.

    Contig lengths are log-normal with a mean of 174,000 bases, so there are one million contigs in 174 billion bases.
    On average, there is one run of 100 N every 58,000 bases.

    Args:
        folder: folder of the shard set; must not exist.
        bases: approximate total number of bases.
        species: number of species, with equal numbers of contigs.
    """
    contigs, runs = bases // BASES_PER_CONTIG, bases // BASES_PER_RUN
    rng = np.random.default_rng(0)
    weight = rng.lognormal(sigma=2.5, size=contigs)
    length = np.maximum((weight / weight.sum() * bases).astype(np.int64), 300)
    runs_of = rng.multinomial(runs, length / length.sum())
    owner = np.repeat(np.arange(contigs), runs_of)
    start = np.sort(owner + rng.random(runs)) - owner  # sorted within each contig
    start = (start * (length[owner] - 100)).astype(np.int64)
    separate = np.append(True, (owner[1:] != owner[:-1]) | (start[1:] > start[:-1] + 100))
    owner, start = owner[separate], start[separate]
    index = Index(
        tool="synthetic",
        recipe={"sources": []},
        contigs=Contigs(
            species_names=[f"species{number}" for number in range(species)],
            names=names_as_lines([f"contig{number}" for number in range(contigs)]),
            species=np.arange(contigs) * species // contigs,
            source=np.arange(contigs) * species // contigs,
            length=length,
            runs=np.bincount(owner, minlength=contigs),
            sha256=rng.integers(256, size=(contigs, 32), dtype=np.uint8),
        ),
        splits=_splits(length),
        runs=np.stack((start, start + 100), axis=1),
        blocks=(blocks := _blocks(length, rng)),
        shards=[Shard(f"shard-{number:06d}.tar", SHARD_BYTES, "0" * 64) for number in range(int(blocks.shard[-1]) + 1)],
    )
    folder.mkdir(parents=True)
    index.save(folder)
    return index


def _splits(length: np.ndarray) -> dict[str, np.ndarray]:
    contig = np.arange(len(length))
    rows = np.stack((contig, np.zeros_like(contig), length), axis=1)
    valid = contig % round(1 / VALID_FRACTION) == 0
    return {"train": rows[~valid], "valid": rows[valid]}


def _blocks(length: np.ndarray, rng: np.random.Generator) -> Blocks:
    number = -(-length // BLOCK_BASES)
    contig = np.repeat(np.arange(len(length)), number)
    start = (np.arange(len(contig)) - np.repeat(np.cumsum(number) - number, number)) * BLOCK_BASES
    size = np.minimum(length[contig] - start, BLOCK_BASES)
    return Blocks(
        contig=contig,
        start=start,
        length=size,
        shard=np.arange(len(contig)) // BLOCKS_PER_SHARD,
        offset=np.arange(len(contig)) % BLOCKS_PER_SHARD * FRAME_BYTES + 512,
        size=-(-size // 4),
        sha256=rng.integers(256, size=(len(contig), 32), dtype=np.uint8),
    )
