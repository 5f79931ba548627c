"""How well windows are shuffled, and what reading in that order costs, against a uniform order and a shuffle buffer.

    python -m benchmarks.shuffle

No bases are needed: everything follows from the index of a synthetic set.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.record import RESULTS, provenance, write_result
from benchmarks.synthetic import synthetic_set
from ldarnet.data import ShardSet, Windows
from ldarnet.data.counter_rng import permute, stream_key
from ldarnet.data.order import LANES
from ldarnet.markdown import table

NEAR = 10**6
"""Two windows of one contig are near when they begin less than this many bases apart."""
BATCH = 256
SHARD_BASES = 2**30
CACHE_BYTES = 512 * 2**20
"""Packed blocks that a process keeps when reads are counted."""

Order = Callable[[np.ndarray], np.ndarray]
"""Positions (k,) -> number of the window that stands there."""

METHOD = f"""Three orders of the same windows:

- `lanes`: that of LDARNet, from the middle of an epoch; and as a mixture of all species at temperature 2.
- `uniform`: every window of the epoch is equally likely at every place.
- `buffer`: what streaming loaders do. Shards of {SHARD_BASES / 2**20:,.0f} Mb are permuted and dealt to the ranks; each
  rank reads its shards from end to end and draws from a buffer of {SHARD_BASES / 2**20:,.0f} Mb, which is filled first.
  Packed, that is about what one process keeps for `lanes`; as a byte a base it is three times as much.

*Near pairs*: pairs of windows within {NEAR / 1e6:.0f} Mb of each other in a batch of {BATCH}, mean. *Species*: variance
of the number of windows of a species in one batch, and in 64 batches that follow each other, over that of independent
draws: 1 is uniform, below is more even. *Return*: windows until a megabase is visited again, if it is, median.

A rank takes its micro-batches as in training and is read for by one process. *Blocks open*: blocks that it has read and
will read again, at a moment, and their MiB. *Reads*: bases in the blocks that it reads over bases in its windows, with
{CACHE_BYTES / 2**20:.0f} MiB of blocks kept in memory. *First batch*: blocks read for its first micro-batch.
"""


@dataclass(frozen=True)
class Ground:
    """What the measures need to know of the windows of a set, by number: the blocks and the bases they lie on.

    Attributes:
        windows: in their order; epoch 0 without offsets.
        base: (n,) int64, first base, counted through all contigs with gaps of `NEAR` between them.
        species: (n,) int16.
    """

    windows: Windows
    base: np.ndarray
    species: np.ndarray

    @classmethod
    def of(cls, windows: Windows) -> Ground:
        """Look at every window once."""
        segments, contigs = windows.segments, windows.shards.index.contigs
        contig, start = segments.locate(np.arange(segments.total), windows.length)
        origin = np.cumsum(contigs.length) - contigs.length + NEAR * np.arange(len(contigs))
        return cls(windows, origin[contig] + start, contigs.species[contig].astype(np.int16))

    def blocks(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last block of windows (k,)."""
        shards, length = self.windows.shards, self.windows.length
        contig, start = self.windows.segments.locate(numbers, length)
        blocks = shards.index.blocks
        begin = np.cumsum(blocks.length) - blocks.length
        origin = begin[shards.index.first_block[contig]] + start
        first, last = (np.searchsorted(begin, origin + at, side="right") - 1 for at in (0, length - 1))
        return first, last


def lanes(windows: Windows, begin: int) -> Order:
    """The order of LDARNet from a position on."""
    first = np.cumsum(windows.shuffle.windows) - windows.shuffle.windows

    def order(positions: np.ndarray) -> np.ndarray:
        source, _, number = windows.shuffle.locate(positions + begin)
        return first[source] + number

    return order


def uniform(windows: Windows) -> Order:
    """A permutation of all windows."""
    total = len(windows)
    return lambda positions: permute(positions, total, np.full(len(positions), stream_key("uniform")))


def buffer(windows: Windows, ranks: int, micro_batch: int, count: int) -> Order:
    """Shards permuted, dealt to ranks, and a shuffle buffer in each; the first ``count`` windows of it."""
    random = np.random.default_rng(0)
    shard = SHARD_BASES // windows.length
    shards = random.permutation(len(windows) // shard)
    drawn = [_drawn(shards[rank::ranks], shard, -(-count // ranks), random) for rank in range(ranks)]
    drawn = np.stack([numbers[: min(map(len, drawn))] for numbers in drawn])

    def order(positions: np.ndarray) -> np.ndarray:
        step, place = np.divmod(positions, ranks * micro_batch)
        rank, row = np.divmod(place, micro_batch)
        return drawn[rank, step * micro_batch + row]

    return order


def _drawn(shards: np.ndarray, shard: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Windows of some shards, in the order in which a buffer that holds a shard's worth gives them."""
    stream = (shards[: 2 + count // shard, None] * shard + np.arange(shard)).ravel().tolist()
    held, result = stream[:shard], []
    for place, new in zip(random.integers(shard, size=count).tolist(), stream[shard:], strict=False):
        result.append(held[place])
        held[place] = new
    return np.array(result)


def mixing(ground: Ground, order: Order, count: int, share: np.ndarray) -> list[str]:
    """Near pairs a batch, variance of the species in a batch and in 64, and the return to a megabase.

    ``share`` is that of each species, as it should be.
    """
    numbers = order(np.arange(count))
    near = np.mean([_near(batch) for batch in ground.base[numbers].reshape(-1, BATCH)])
    spread = []
    for batches in (1, 64):
        size = BATCH * batches
        rows = ground.species[numbers[: count // size * size]].reshape(-1, size)
        seen = np.stack([np.bincount(row, minlength=len(share)) for row in rows])
        wanted = size * share * (1 - share)
        spread.append(float((((seen - size * share) ** 2).mean(0)[share > 0] / wanted[share > 0]).mean()))
    megabase = ground.base[numbers] // NEAR
    by_place = np.argsort(megabase, kind="stable")
    again = np.diff(by_place)[np.diff(megabase[by_place]) == 0]
    return [f"{value:,.2f}" for value in (near, *spread, np.median(again))]


def _near(bases: np.ndarray) -> int:
    ordered = np.sort(bases)
    return int((np.searchsorted(ordered, ordered + NEAR) - np.arange(len(ordered)) - 1).sum())


def reading(ground: Ground, order: Order, ranks: int, micro_batch: int, count: int) -> list[str]:
    """Blocks open on rank 0, their MiB, reads over what is asked for, and blocks read for the first micro-batch."""
    step = np.arange(count // ranks // micro_batch)[:, None] * ranks * micro_batch
    numbers = order((step + np.arange(micro_batch)).ravel())
    first, last = ground.blocks(numbers)
    size = ground.windows.shards.index.blocks.size
    touched = np.stack((first, last), axis=1).ravel()
    blocks, begin = np.unique(touched, return_index=True)
    end = len(touched) - 1 - np.unique(touched[::-1], return_index=True)[1]
    moments = np.linspace(0.3, 0.7, 9) * len(touched)
    is_open = (begin < moments[:, None]) & (end > moments[:, None])
    read = sum(size[block] for block in _missed(touched.tolist(), size))
    values = (
        is_open.sum(1).mean(),
        (is_open @ size[blocks]).mean() / 2**20,
        4 * read / (len(numbers) * ground.windows.length),
        len(np.unique(touched[: 2 * micro_batch])),
    )
    return [f"{value:,.1f}" for value in values]


def _missed(touched: list[int], size: np.ndarray) -> Iterator[int]:
    """The blocks that are not in memory when they are wanted."""
    kept: dict[int, int] = {}
    held = 0
    for block in touched:
        bytes_ = kept.pop(block, None)
        if bytes_ is None:
            yield block
            bytes_ = int(size[block])
            held += bytes_
        kept[block] = bytes_
        while held > CACHE_BYTES:
            held -= kept.pop(next(iter(kept)))


def measure(
    windows: Windows, mixture: Windows, ranks: list[int], micro_batch: int, count: int
) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of the two tables: mixing and reading."""
    ground, begin = Ground.of(windows), len(windows) // 2
    natural = np.bincount(ground.species, minlength=len(windows.shards.index.species)) / len(windows)
    shares = {source.name: source.share for source in mixture.sources}
    tempered = np.array([shares.get(name, 0) for name in mixture.shards.index.species])
    orders = {"lanes": lanes(windows, begin), "lanes, mixture": lanes(mixture, begin), "uniform": uniform(windows)}
    mixed = [
        [name, *mixing(ground, order, count, tempered if "mixture" in name else natural)]
        for name, order in orders.items()
    ]
    for world in ranks:
        if len(windows) * windows.length < 2 * world * SHARD_BASES:
            continue  # too few shards for so many ranks
        order = buffer(windows, world, max(1, BATCH // world), count)
        mixed.append([f"buffer, {world} rank{'s' * (world > 1)}", *mixing(ground, order, count, natural)])
    # Each rank is followed for as long, but not beyond the epoch.
    read = [
        [f"{name}, {world}", *reading(ground, order, world, micro_batch, min(count * max(1, world // 4), begin))]
        for world in ranks
        for name, order in orders.items()
    ]
    return mixed, read


def main(arguments: list[str]) -> None:
    """Measure on a synthetic set and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--bases", type=float, default=174.0, help="billion bases of the synthetic index")
    add("--length", type=int, default=4096, help="bases in a window")
    add("--ranks", type=int, nargs="+", default=[1, 8, 64, 256], help="numbers of ranks")
    add("--micro-batch", type=int, default=32, help="windows of a rank")
    add("--count", type=int, default=2**21, help="windows looked at")
    add("--name", default="shuffle", help="of the results file")
    add("--out", type=Path, default=RESULTS, help="folder of the results file")
    add("--note", default="", help="words at the head of the file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        synthetic_set(Path(folder) / "set", int(options.bases * 1e9))
        shards = ShardSet.open(Path(folder) / "set")
        begin = time.perf_counter()
        windows = Windows(shards, "train", options.length)
        laid_out = time.perf_counter() - begin
        mixture = Windows(shards, "train", options.length, temperature=2)
        mixed, read = measure(windows, mixture, options.ranks, options.micro_batch, options.count)
    index = shards.index
    text = f"""# Quality and cost of the order of windows

{options.note}

{provenance(shlex.join(["python", "-m", "benchmarks.shuffle", *arguments]))}
- Data: synthetic index of {options.bases:g} billion bases, {len(index.species):,} species,
  {len(index.contigs):,} contigs, {len(index.blocks):,} blocks; {len(windows):,} windows of {options.length:,} bases,
  laid out in {laid_out:.2f} s
- Configuration: {LANES:,} lanes; {options.count:,} windows looked at, {options.micro_batch} a rank and micro-batch

{METHOD}
{table(["order", "near pairs", "species, 1 batch", "species, 64 batches", "return"], mixed)}

{table(["order, ranks", "blocks open", "MiB", "reads", "first batch"], read)}
"""
    print(write_result(options.name, text, options.out))
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
