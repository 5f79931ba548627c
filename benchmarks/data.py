"""Measure the throughput of building shards and loading batches, compared with common alternatives.

    python -m benchmarks.data genome.fa.gz

Building shards is compared with writing a tar file that has one member per window. Loading is compared with reading
this tar file by webdataset, and with a reimplementation of the published loader, which uses pyfaidx, a dictionary
lookup per base, and BERT masking per batch.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from xopen import xopen

from benchmarks.data_report import BATCH, FAR, Result, report
from benchmarks.record import ProgramParser, add_result_options, result_file, run_program, write_result
from benchmarks.synthetic import synthetic_set
from benchmarks.worker import Worker, WorkerError
from ldarnet.alphabet import IGNORE_INDEX, MASK, N
from ldarnet.data import Masking, ShardSet, Windows, training_steps
from ldarnet.genome.fasta import Header, read_fasta
from ldarnet.genome.sources import SequenceSource
from sharding.build import build

IDS = {letter: number for number, letter in enumerate("ACGT")}
PUBLISHED_READ_AHEAD = 10**6


def timed(function: Callable[[], int]) -> Result:
    """Time a function that returns the number of processed bases, and record the peak memory of the process."""
    start = time.perf_counter()
    bases = function()
    seconds = time.perf_counter() - start
    return {"bases": bases, "seconds": seconds, "speed": bases / seconds, "peak": peak_memory()}


def peak_memory() -> int:
    """Peak memory of this process in bytes."""
    # Not getrusage, which may include memory of the parent process.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


# Building shards


def decompress(fasta: Path) -> Result:
    """Time reading and decompressing a FASTA file, without parsing."""

    def run() -> int:
        with xopen(fasta, "rb", threads=0) as file:
            return sum(len(piece) for piece in iter(lambda: file.read(2**20), b""))

    return timed(run)


def build_shards(fasta: Path, out: Path, workers: int = 1) -> Result:
    """Time a shard build; with several workers, each builds a copy of the genome as a separate species."""
    sources = [SequenceSource(str(fasta), f"copy{number}" if workers > 1 else "") for number in range(workers)]

    def run() -> int:
        index, _ = build(out, sources, workers=workers)
        return int(index.contigs.length.sum())

    result = timed(run)
    return result | {"bits": 8 * sum(file.stat().st_size for file in out.iterdir()) / result["bases"]}


def write_windows(fasta: Path, out: Path, length: int) -> Result:
    """Time writing every window as a text member of a tar file, the naive baseline."""
    import webdataset

    def run() -> int:
        with webdataset.TarWriter(str(out)) as sink:
            for number, window in enumerate(cut(fasta, length)):
                sink.write({"__key__": f"{number:09d}", "txt": window})
        return (number + 1) * length

    result = timed(run)
    return result | {"bits": 8 * out.stat().st_size / result["bases"]}


def cut(fasta: Path, length: int) -> Iterator[bytes]:
    """Yield the non-overlapping windows of each contig; an incomplete last window is dropped."""
    rest = b""
    for piece in read_fasta(fasta):
        rest = b"" if isinstance(piece, Header) else rest + piece
        for start in range(0, len(rest) - length + 1, length):
            yield rest[start : start + length]
        rest = rest[len(rest) // length * length :]


# Loading batches


def load_published(fasta: Path, length: int, seconds: float, read_ahead: int | None) -> Result:
    """Time a reimplementation of the published loader, which reads random windows with pyfaidx."""
    from pyfaidx import Fasta

    genome = Fasta(str(fasta), sequence_always_upper=True, read_ahead=read_ahead)
    windows = [(name, start) for name, record in genome.items() for start in range(0, len(record) - length + 1, length)]
    order = np.random.default_rng(0).permutation(len(windows)).tolist()

    def window(number: int) -> torch.Tensor:
        name, start = windows[number]
        return torch.tensor([IDS.get(letter, N) for letter in str(genome[name][start : start + length])])

    def batch(step: int) -> torch.Tensor:
        ids = torch.stack([window(order[(step * BATCH + row) % len(order)]) for row in range(BATCH)])
        labels = ids.clone()
        scored = torch.bernoulli(torch.full(ids.shape, 0.15)).bool() & (ids < N)
        labels[~scored] = IGNORE_INDEX
        masked = torch.bernoulli(torch.full(ids.shape, 0.8)).bool() & scored
        ids[masked] = MASK
        other = torch.bernoulli(torch.full(ids.shape, 0.5)).bool() & scored & ~masked
        ids[other] = torch.randint(4, ids.shape)[other]
        return ids

    return steady(batch, length, seconds)


def load_tar(tar: Path, length: int, seconds: float) -> Result:
    """Time loading from the tar file: webdataset reads and shuffles the windows, LDARNet encodes and masks them."""
    import webdataset

    from ldarnet.alphabet import encode

    stream: Any = webdataset.WebDataset(str(tar), shardshuffle=False)
    windows, masking = iter(stream.shuffle(1000).repeat()), Masking()

    def batch(step: int) -> np.ndarray:
        ids = np.stack([encode(next(windows)["txt"]) for _ in range(BATCH)])
        return masking.apply(ids, "", np.arange(step * BATCH, (step + 1) * BATCH))[0]

    return steady(batch, length, seconds)


def load_ours(shards: Path, length: int, seconds: float) -> Result:
    """Time LDARNet's loader, run in the calling process as in training."""
    steps = our_steps(shards, length)
    return steady(lambda _: next(steps), length, seconds)


def our_steps(shards: Path, length: int, first: int = 0) -> Iterator[Any]:
    """Yield the batches of LDARNet's loader for a single rank, starting at step `first`."""
    return training_steps(
        Windows(ShardSet.open(shards), "train", length),
        Masking(),
        micro_batch=BATCH,
        accumulation=1,
        rank=0,
        world=1,
        first_step=first,
        last_step=2**40,
    )


def steady(batch: Callable[[int], object], length: int, seconds: float) -> Result:
    """Measure how many bases per second a loader yields on one thread; time the first batch separately.

    Args:
        batch: builds the batch for a step.
        length: bases per window.
        seconds: duration of the measurement after the first batch.
    """
    torch.set_num_threads(1)
    start = time.perf_counter()
    batch(0)
    first = time.perf_counter()
    taken = 0
    while time.perf_counter() - first < seconds:
        taken += 1
        batch(taken)
    spent = time.perf_counter() - first
    return {"first": first - start, "speed": taken * BATCH * length / spent, "peak": peak_memory()}


# Latency


def first_batch(shards: Path, length: int) -> Result:
    """Time opening a shard set and loading the first batch, for a new run and for a run resumed at position `FAR`."""
    seconds = []
    for first in (0, FAR // BATCH):
        start = time.perf_counter()
        next(our_steps(shards, length, first))
        seconds.append(time.perf_counter() - start)
    return {"first": seconds[0], "resumed": seconds[1], "peak": peak_memory()}


def far_position(folder: Path, length: int) -> Result:
    """Time opening a huge shard set that has only an index, and locating windows from position `FAR`."""
    start = time.perf_counter()
    shards = ShardSet.open(folder)
    opened = time.perf_counter()
    windows = Windows(shards, "train", length)
    laid_out = time.perf_counter()
    windows.locate(FAR)
    found = time.perf_counter()
    many = np.arange(FAR, FAR + 10**5)
    windows.locations(many)
    located = time.perf_counter()
    return {
        "bases": sum(shards.splits.values()),
        "open": opened - start,
        "lay out": laid_out - opened,
        "locate": found - laid_out,
        "resumed": found - start,
        "locate each": (located - found) / len(many),
        "peak": peak_memory(),
    }


# Command line


def measure_all(fasta: Path, options: argparse.Namespace, ask: Callable[..., Result]) -> dict[str, Result]:
    """Run all measurements and return the results by name; `ask` runs a function in a new process."""
    length, seconds = options.length, options.seconds
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        folder = Path(work)
        plain, packed, tar = folder / "genome.fa", folder / "genome.fa.gz", folder / "windows.tar"
        for copy in (plain, packed):
            with xopen(fasta, "rb") as source, xopen(copy, "wb") as sink:
                while piece := source.read(2**24):
                    sink.write(piece)
        found = {
            "read plain": ask(decompress, plain),
            "build plain": ask(build_shards, plain, folder / "plain"),
            "build plain, all cores": ask(build_shards, plain, folder / "copies", options.cores),
            "decompress gz": ask(decompress, packed),
            "build gz": ask(build_shards, packed, folder / "packed"),
            "naive tar": ask(write_windows, plain, tar, length),
        }
        load_published(plain, length, 0.0, None)  # writes the index of the FASTA file
        found |= {
            "published": ask(load_published, plain, length, seconds, PUBLISHED_READ_AHEAD),
            "published, no read-ahead": ask(load_published, plain, length, seconds, None),
            "naive tar, webdataset": ask(load_tar, tar, length, seconds),
            "ours": ask(load_ours, folder / "plain", length, seconds),
            "first batch": ask(first_batch, folder / "plain", length),
        }
        found["ours, all cores"] = together(load_ours, options.cores, folder / "plain", length, seconds)
        synthetic_set(folder / "synthetic", int(options.synthetic * 1e9))
        found["synthetic"] = ask(far_position, folder / "synthetic", length)
    return found


def together(function: Callable[..., Result], processes: int, *arguments: Any) -> Result:
    """Run a function in concurrent processes; return the sum of their speeds, or an error message as `failure`."""
    from concurrent.futures import ThreadPoolExecutor

    workers = [Worker() for _ in range(processes)]
    try:
        with ThreadPoolExecutor(processes) as pool:
            found = list(pool.map(lambda worker: worker(function, *arguments, seconds=LIMIT), workers))
    except WorkerError as error:
        return {"failure": str(error)}
    finally:
        for worker in workers:
            worker.close()
    return {"speed": sum(result["speed"] for result in found), "processes": processes}


LIMIT = 600.0
"""Timeout of a measurement in seconds."""


def alone(function: Callable[..., Result], *arguments: Any) -> Result:
    """Run a function in a new process; return its result, or an error message as `failure`."""
    worker = Worker()
    try:
        return worker(function, *arguments, seconds=LIMIT)
    except WorkerError as error:
        return {"failure": str(error)}
    finally:
        worker.close()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ProgramParser("data", __doc__)
    add = parser.add_argument
    add("fasta", type=Path, help="genome, plain or compressed")
    add("--length", type=int, default=4096, help="bases per window")
    add("--seconds", type=float, default=10.0, help="duration of the measurement of each loader, in seconds")
    add("--cores", type=int, default=os.cpu_count() or 1, help="concurrent loader processes (default: one per core)")
    add("--synthetic", type=float, default=174.0, help="billions of bases in the synthetic index")
    add("--work", type=Path, help="folder for temporary files; needs several times the uncompressed genome size")
    add_result_options(parser, "data")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the results file and print its path."""
    options = parse(arguments)
    file = result_file(options.name, options.out)
    write_result(file, report(measure_all(options.fasta, options, alone), options))


if __name__ == "__main__":
    run_program(main)
