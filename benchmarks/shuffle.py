"""Measure shuffle quality and read cost of LDARNet's window order, a uniform permutation and a shuffle buffer.

    python -m benchmarks.shuffle

Uses only the index of a synthetic shard set; no bases are stored or read.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.record import ProgramParser, add_result_options, heading, result_file, run_program, write_result
from benchmarks.synthetic import synthetic_set
from ldarnet.data import ShardSet, Windows
from ldarnet.data.counter_rng import permute, stream_key
from ldarnet.data.order import LANES
from ldarnet.markdown import table

NEAR = 10**6
"""Two windows of a contig form a near pair if their starts are less than this many bases apart."""
BATCH = 256
"""Windows per global batch."""
SHARD_BASES = 2**30
"""Bases per shard, and per shuffle buffer, in the order `buffer`."""
CACHE_BYTES = 512 * 2**20
"""Size of the simulated block cache of each process, as in training."""

Order = Callable[[np.ndarray], np.ndarray]
"""Maps positions (k,) to window numbers."""

METHOD = f"""Three orders of the same windows:

- `lanes`: LDARNet's order, from the middle of an epoch; also for a mixture of all species at temperature 2.
- `uniform`: a uniform permutation of the epoch.
- `buffer`: the order of streaming loaders. Shards of {SHARD_BASES / 2**20:,.0f} Mb are permuted and distributed over
  the ranks; each rank reads its shards sequentially and samples from a shuffle buffer of the same size, which is filled
  first. The buffer takes {SHARD_BASES / 2**22:,.0f} MiB with two bits per base and {SHARD_BASES / 2**20:,.0f} MiB with
  one byte per base; the block cache for `lanes` takes {CACHE_BYTES / 2**20:.0f} MiB.

*Near pairs*: mean number of window pairs within {NEAR / 1e6:.0f} Mb of each other in a batch of {BATCH} windows.
*Species*: variance of the number of windows per species, in one batch and in 64 consecutive batches, relative to
independent sampling: 1 is uniform, below 1 is more even. *Return*: median number of windows until the next window from
the same megabase.

The second table is for rank 0, which draws micro-batches as in training, with one reader process. *Blocks open*: mean
number of blocks that it has read and will read again, and their size in MiB. *Reads*: bases in the blocks read, divided
by bases in the windows, with a block cache of {CACHE_BYTES / 2**20:.0f} MiB. *First batch*: blocks read for the first
micro-batch.
"""


@dataclass(frozen=True)
class WindowMap:
    """Locations of all windows of a shard set.

    In training, the windows of a segment start at a random offset. Here, this offset is 0.

    Attributes:
        base: (n,) int64, coordinate of each window's first base in a concatenation of all contigs, with gaps of `NEAR`
            bases.
        species: (n,) int16, species index of each window.
    """

    windows: Windows
    base: np.ndarray
    species: np.ndarray

    @classmethod
    def of(cls, windows: Windows) -> WindowMap:
        """Locate all windows."""
        segments, contigs = windows.segments, windows.shards.index.contigs
        contig, start = segments.locate(np.arange(segments.total), windows.length)
        origin = np.cumsum(contigs.length) - contigs.length + NEAR * np.arange(len(contigs))
        return cls(windows, origin[contig] + start, contigs.species[contig].astype(np.int16))

    def blocks(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the first and the last block that each window overlaps: two arrays (k,).

        Args:
            numbers: (k,) window indices.
        """
        shards, length = self.windows.shards, self.windows.length
        contig, start = self.windows.segments.locate(numbers, length)
        blocks = shards.index.blocks
        begin = np.cumsum(blocks.length) - blocks.length
        origin = begin[shards.index.first_block[contig]] + start
        first, last = (np.searchsorted(begin, origin + at, side="right") - 1 for at in (0, length - 1))
        return first, last


def lanes(windows: Windows, begin: int) -> Order:
    """LDARNet's window order, from position `begin` on."""
    first = np.cumsum(windows.shuffle.windows) - windows.shuffle.windows

    def order(positions: np.ndarray) -> np.ndarray:
        source, _, number = windows.shuffle.locate(positions + begin)
        return first[source] + number

    return order


def uniform(windows: Windows) -> Order:
    """Uniform permutation of all windows."""
    total = len(windows)
    return lambda positions: permute(positions, total, np.full(len(positions), stream_key("uniform")))


def buffer(windows: Windows, ranks: int, micro_batch: int, count: int) -> Order:
    """Order of a loader that distributes shards over ranks; each rank samples from a shuffle buffer.

    Args:
        windows: windows to order.
        ranks: number of ranks.
        micro_batch: windows per rank and micro-batch.
        count: number of windows for which the order is needed, over all ranks.
    """
    rng = np.random.default_rng(0)
    shard = SHARD_BASES // windows.length
    shards = rng.permutation(len(windows) // shard)
    sampled = [_sampled(shards[rank::ranks], shard, -(-count // ranks), rng) for rank in range(ranks)]
    sampled = np.stack([numbers[: min(map(len, sampled))] for numbers in sampled])

    def order(positions: np.ndarray) -> np.ndarray:
        step, offset = np.divmod(positions, ranks * micro_batch)
        rank, row = np.divmod(offset, micro_batch)
        return sampled[rank, step * micro_batch + row]

    return order


def _sampled(shards: np.ndarray, shard: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Pass the windows of shards through a shuffle buffer that holds one shard; return the first `count` windows.

    Args:
        shards: shard indices, in reading order.
        shard: windows per shard.
        count: number of windows to return.
        rng: selects windows from the buffer.
    """
    stream = (shards[: 2 + count // shard, None] * shard + np.arange(shard)).ravel().tolist()
    held, result = stream[:shard], []
    for slot, new in zip(rng.integers(shard, size=count).tolist(), stream[shard:], strict=False):
        result.append(held[slot])
        held[slot] = new
    return np.array(result)


def mixing(window_map: WindowMap, order: Order, count: int, fractions: np.ndarray) -> list[str]:
    """Measure how well an order mixes the windows, and return the cells of a table row (see `METHOD`).

    The cells are the mean number of near pairs per batch, the relative variance of the species counts in 1 batch and in
    64 batches, and the median number of windows until the next window from the same megabase.

    Args:
        window_map: locations of the windows.
        order: order to measure, from position 0.
        count: number of windows to measure, a multiple of `BATCH`.
        fractions: (species,) expected fraction of windows of each species.
    """
    numbers = order(np.arange(count))
    near = np.mean([_near(batch) for batch in window_map.base[numbers].reshape(-1, BATCH)])
    spread = []
    for batches in (1, 64):
        size = BATCH * batches
        rows = window_map.species[numbers[: count // size * size]].reshape(-1, size)
        counts = np.stack([np.bincount(row, minlength=len(fractions)) for row in rows])
        expected = size * fractions * (1 - fractions)
        variance = ((counts - size * fractions) ** 2).mean(0)
        spread.append(float((variance[fractions > 0] / expected[fractions > 0]).mean()))
    megabase = window_map.base[numbers] // NEAR
    by_megabase = np.argsort(megabase, kind="stable")
    again = np.diff(by_megabase)[np.diff(megabase[by_megabase]) == 0]
    return [f"{value:,.2f}" for value in (near, *spread, np.median(again))]


def _near(bases: np.ndarray) -> int:
    ordered = np.sort(bases)
    return int((np.searchsorted(ordered, ordered + NEAR) - np.arange(len(ordered)) - 1).sum())


def reading(window_map: WindowMap, order: Order, ranks: int, micro_batch: int, count: int) -> list[str]:
    """Measure what rank 0 reads while all ranks together load `count` windows; return the cells of a table row.

    A block is open if it has been read and will be needed again. The cells are the mean number of open blocks, their
    mean total size in MiB, the ratio of bases read to bases used, and the number of blocks read for the first
    micro-batch.
    """
    step = np.arange(count // ranks // micro_batch)[:, None] * ranks * micro_batch
    numbers = order((step + np.arange(micro_batch)).ravel())
    first, last = window_map.blocks(numbers)
    size = window_map.windows.shards.index.blocks.size
    touched = np.stack((first, last), axis=1).ravel()
    blocks, begin = np.unique(touched, return_index=True)
    end = len(touched) - 1 - np.unique(touched[::-1], return_index=True)[1]
    moments = np.linspace(0.3, 0.7, 9) * len(touched)
    is_open = (begin < moments[:, None]) & (end > moments[:, None])
    read = sum(size[block] for block in _missed(touched.tolist(), size))
    values = (
        is_open.sum(1).mean(),
        (is_open @ size[blocks]).mean() / 2**20,
        4 * read / (len(numbers) * window_map.windows.length),
        len(np.unique(touched[: 2 * micro_batch])),
    )
    return [f"{value:,.1f}" for value in values]


def _missed(touched: list[int], size: np.ndarray) -> Iterator[int]:
    """Yield each requested block that is not in an LRU cache of `CACHE_BYTES`."""
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
    """Measure all orders; return the rows of the mixing table, and those of the reading table."""
    window_map, begin = WindowMap.of(windows), len(windows) // 2
    natural = np.bincount(window_map.species, minlength=len(windows.shards.index.species)) / len(windows)
    shares = {source.name: source.share for source in mixture.sources}
    tempered = np.array([shares.get(name, 0) for name in mixture.shards.index.species])
    orders = {"lanes": lanes(windows, begin), "lanes, mixture": lanes(mixture, begin), "uniform": uniform(windows)}
    mixed = [
        [name, *mixing(window_map, order, count, tempered if "mixture" in name else natural)]
        for name, order in orders.items()
    ]
    for world in ranks:
        if len(windows) * windows.length < 2 * world * SHARD_BASES:
            continue  # too few shards for this many ranks
        order = buffer(windows, world, max(1, BATCH // world), count)
        mixed.append([f"buffer, {world} rank{'s' * (world > 1)}", *mixing(window_map, order, count, natural)])
    # With more ranks, read more windows in total, up to the end of the epoch.
    read = [
        [f"{name}, {world}", *reading(window_map, order, world, micro_batch, min(count * max(1, world // 4), begin))]
        for world in ranks
        for name, order in orders.items()
    ]
    return mixed, read


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure on a synthetic set and write the results file."""
    parser = ProgramParser("shuffle", __doc__)
    add = parser.add_argument
    add("--bases", type=float, default=174.0, help="billions of bases in the synthetic index")
    add("--length", type=int, default=4096, help="bases per window")
    add("--ranks", type=int, nargs="+", default=[1, 8, 64, 256], help="world sizes to simulate")
    add("--micro-batch", type=int, default=32, help="windows per rank and micro-batch")
    add("--count", type=int, default=2**21, help="number of windows to measure")
    add_result_options(parser, "shuffle")
    options = parser.parse_args(arguments)
    file = result_file(options.name, options.out)
    with tempfile.TemporaryDirectory() as folder:
        synthetic_set(Path(folder) / "set", int(options.bases * 1e9))
        shards = ShardSet.open(Path(folder) / "set")
        begin = time.perf_counter()
        windows = Windows(shards, "train", options.length)
        laid_out = time.perf_counter() - begin
        mixture = Windows(shards, "train", options.length, temperature=2)
        mixed, read = measure(windows, mixture, options.ranks, options.micro_batch, options.count)
    index = shards.index
    text = f"""{heading("Quality and cost of the window order", options)}
- Data: synthetic index of {options.bases:g} billion bases, {len(index.species):,} species,
  {len(index.contigs):,} contigs, {len(index.blocks):,} blocks; {len(windows):,} windows of {options.length:,} bases,
  laid out in {laid_out:.2f} s
- Configuration: {LANES:,} lanes; {options.count:,} windows, {options.micro_batch} per rank and micro-batch

{METHOD}
{table(["order", "near pairs", "species, 1 batch", "species, 64 batches", "return"], mixed)}

{table(["order, ranks", "blocks open", "MiB", "reads", "first batch"], read)}
"""
    print(text)
    write_result(file, text)


if __name__ == "__main__":
    run_program(main)
