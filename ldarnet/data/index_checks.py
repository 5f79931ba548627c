"""Check the values in the tables of an index. The index may come from an untrusted source."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ldarnet.data.blocks import Blocks
from ldarnet.data.contigs import Contigs
from ldarnet.data.format import MAX_BLOCK_BASES, max_payload_bytes
from ldarnet.data.index_file import Shard

_MAX_BASES = 2**53


def find_fault(
    contigs: Contigs, blocks: Blocks, runs: np.ndarray, splits: Mapping[str, np.ndarray], shards: Sequence[Shard]
) -> str | None:
    """Describe the first inconsistency of an index; None if there is none.

    The arguments are attributes of `ldarnet.data.index.Index`. Other code assumes what is checked here: intervals lie
    within their contigs, blocks cover every contig exactly once, and every frame has a possible size and lies within
    its shard.
    """
    return next(_faults(contigs, blocks, runs, splits, shards), None)


def _faults(
    contigs: Contigs, blocks: Blocks, runs: np.ndarray, splits: Mapping[str, np.ndarray], shards: Sequence[Shard]
) -> Iterator[str]:
    lengths = contigs.length
    if not len(lengths) or _outside(lengths, 1, _MAX_BASES) or lengths.sum(dtype=float) > _MAX_BASES:
        yield "contigs of impossible length"
        return
    if _outside(contigs.species, 0, len(contigs.species_names) - 1) or _outside(contigs.source, 0, _MAX_BASES):
        yield "contigs of an unknown species"
    try:
        contigs.names.tobytes().decode()
    except UnicodeDecodeError:
        yield "contig names that are not UTF-8"
    if not _covers(blocks, lengths):
        yield "blocks that do not cover the contigs"
        return
    if not _fits_shards(blocks, shards):
        yield "blocks outside their shards"
    if _outside(contigs.runs, 0, len(runs)) or contigs.runs.sum(dtype=float) != len(runs):
        yield "a wrong number of runs"
        return
    owners = np.repeat(np.arange(len(lengths)), contigs.runs)
    if not _are_sorted(owners, runs, lengths):
        yield "runs outside their contigs"
    for rows in splits.values():
        if len(rows) and (
            _outside(rows[:, 0], 0, len(lengths) - 1) or not _are_sorted(rows[:, 0], rows[:, 1:], lengths)
        ):
            yield "split intervals that overlap or lie outside their contigs"


def _covers(blocks: Blocks, lengths: np.ndarray) -> bool:
    """Whether the blocks cover each contig exactly once, in order."""
    if not len(blocks) or _outside(blocks.length, 1, MAX_BLOCK_BASES) or _outside(blocks.start, 0, _MAX_BASES):
        return False
    if _outside(blocks.contig, 0, len(lengths) - 1):
        return False
    stops = blocks.start + blocks.length
    steps = np.diff(blocks.contig, prepend=-1, append=len(lengths))
    begins, ends = steps[:-1] == 1, steps[1:] == 1
    continues = blocks.start[~begins] == stops[np.flatnonzero(~begins) - 1]
    return bool(
        ((steps == 0) | (steps == 1)).all()
        and (blocks.start[begins] == 0).all()
        and continues.all()
        and (stops[ends] == lengths).all()
    )


def _fits_shards(blocks: Blocks, shards: Sequence[Shard]) -> bool:
    """Whether every frame lies within its shard and has a possible size for its number of bases."""
    sizes = np.array([shard.size for shard in shards], dtype=np.int64)
    if not len(sizes) or _outside(blocks.shard, 0, len(sizes) - 1) or _outside(blocks.offset, 0, _MAX_BASES):
        return False
    # Incompressible data grow by at most 1 byte in 128, and by the header of the frame.
    largest = max_payload_bytes(blocks.length) * 129 // 128 + 1024
    return bool(
        (blocks.size > 0).all()
        and (blocks.size <= largest).all()
        and (blocks.offset + blocks.size <= sizes[blocks.shard]).all()
    )


def _are_sorted(contig: np.ndarray, edges: np.ndarray, lengths: np.ndarray) -> bool:
    """Whether intervals are non-empty, within their contigs, disjoint and sorted.

    Args:
        contig: (n,) contig index of each interval.
        edges: (n, 2) start and stop of each interval.
        lengths: length of each contig.
    """
    start, stop = edges[:, 0], edges[:, 1]
    if not len(contig):
        return True
    if _outside(start, 0, _MAX_BASES) or (stop <= start).any() or (stop > lengths[contig]).any():
        return False
    step = np.diff(contig)
    return bool((step >= 0).all() and (start[1:] >= stop[:-1])[step == 0].all())


def _outside(values: np.ndarray, low: int, high: int) -> bool:
    """Whether any value is below ``low`` or above ``high``."""
    return bool(len(values)) and bool(values.min() < low or values.max() > high)
