"""Assemble the tables of the index from the receipts of all parts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldarnet.data.blocks import Blocks
from ldarnet.data.contigs import Contigs
from ldarnet.data.index_file import Shard
from ldarnet.errors import UserError
from ldarnet.genome.sources import SequenceSource
from sharding.receipts import PartReceipt, Receipts


@dataclass(frozen=True, slots=True)
class PackedTables:
    """Contigs, runs, blocks and shards of a set, as in `ldarnet.data.index.Index`."""

    contigs: Contigs
    runs: np.ndarray
    blocks: Blocks
    shards: list[Shard]


def assemble(receipts: Receipts, sources: Sequence[SequenceSource]) -> PackedTables:
    """Concatenate the receipts of all parts of all sources.

    Raises:
        UserError: two contigs of one species share a name.
    """
    species = list(dict.fromkeys(source.species for source in sources))
    found: list[PartReceipt] = []
    contig_count = shard_count = 0
    for number, source in enumerate(sources):
        seal = receipts.seal(number)
        assert seal is not None
        for part in range(seal.parts):
            receipt = receipts.read(number, part)
            receipt.contigs["species"] = species.index(source.species)
            receipt.contigs["source"] = number
            receipt.blocks["contig"] += contig_count
            receipt.blocks["shard"] += shard_count
            contig_count += len(receipt.contigs)
            shard_count += len(receipt.shards)
            found.append(receipt)
    names, rows, runs, blocks = (
        np.concatenate([getattr(receipt, name) for receipt in found]) for name in ("names", "contigs", "runs", "blocks")
    )
    contigs = Contigs.from_rows(species, names, rows)
    _check_names(contigs, sources)
    return PackedTables(
        contigs, runs, Blocks.from_rows(blocks), [shard for receipt in found for shard in receipt.shards]
    )


def _check_names(contigs: Contigs, sources: Sequence[SequenceSource]) -> None:
    """Raise if two contigs share a full name."""
    seen: dict[str, int] = {}
    for number, name in enumerate(contigs.all_names()):
        if (other := seen.setdefault(name, number)) != number:
            first, second = (sources[contigs.source[contig]].location for contig in (other, number))
            if first == second:
                raise UserError(f"{second}: contig {name!r} occurs twice; rename one of them")
            raise UserError(
                f"{second}: contig {name!r} is also in {first}; rename one of them, or set the species of each file "
                "(SPECIES=PATH)"
            )
