"""From the receipts of all parts to the tables of the index."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldarnet.data.contigs import Contigs
from ldarnet.data.index import Blocks, Shard
from ldarnet.errors import UserError
from ldarnet.genome.sources import Source
from sharding.receipts import Receipt, Receipts


@dataclass(frozen=True, slots=True)
class Packed:
    """All that was packed: contigs, runs, blocks and shards, as in `ldarnet.data.index.Index`."""

    contigs: Contigs
    runs: np.ndarray
    blocks: Blocks
    shards: list[Shard]


def assemble(receipts: Receipts, sources: Sequence[Source]) -> Packed:
    """Put the receipts of every part of every source together.

    Raises:
        UserError: two contigs of one species have one name.
    """
    species = list(dict.fromkeys(source.species for source in sources))
    found: list[Receipt] = []
    contig_count = shard_count = 0
    for number, source in enumerate(sources):
        plan = receipts.plan(number)
        assert plan is not None
        for part in range(plan.parts):
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
    _demand_names(contigs, sources)
    return Packed(contigs, runs, Blocks.from_rows(blocks), [shard for receipt in found for shard in receipt.shards])


def _demand_names(contigs: Contigs, sources: Sequence[Source]) -> None:
    """Refuse two contigs of one full name."""
    seen: dict[str, int] = {}
    for number, name in enumerate(contigs.all_names()):
        if (other := seen.setdefault(name, number)) != number:
            first, second = (sources[contigs.source[contig]].location for contig in (other, number))
            place = "the same file" if first == second else first
            raise UserError(
                f"{second}: contig {name!r} is also in {place}; "
                "give every contig a name of its own, or name the species (SPECIES=PATH)"
            )
