"""Build, verify, summarize, open and read a shard set of very many short contigs; measure time and memory.

    python -m benchmarks.many_contigs --contigs 1000000

Each step runs in its own process, as in a shell.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.record import ProgramParser, add_result_options, heading, result_file, run_program, write_result
from benchmarks.timed import timed
from ldarnet.markdown import table

LENGTH = 200
SHORT = 128
_SLAB = 10_000
_OPEN = "import sys; from ldarnet.data import ShardSet; ShardSet.open(sys.argv[1])"
_BATCHES = f"""
import sys
import numpy as np
from ldarnet.data import ShardSet, Windows
windows = Windows(ShardSet.open(sys.argv[1]), "train", {SHORT})
for step in range(100):
    windows.batch(np.arange(64 * step, 64 * step + 64))
"""


def write_genome(path: Path, contigs: int, seed: int = 0) -> None:
    """Write a FASTA file of random contigs of `LENGTH` bases."""
    rng, codes = np.random.default_rng(seed), np.frombuffer(b"ACGT", np.uint8)
    with path.open("wb") as file:
        for first in range(0, contigs, _SLAB):
            rows = codes[rng.integers(4, size=(min(_SLAB, contigs - first), LENGTH))]
            file.write(
                b"".join(b">scaffold_%d\n%s\n" % (first + row, bases.tobytes()) for row, bases in enumerate(rows))
            )


def measure_all(folder: Path, contigs: int) -> list[tuple[str, str, str]]:
    """Measure every step on a genome of random contigs; return the name, seconds and peak memory of each step."""
    fasta, shards = folder / "genome.fa", folder / "set"
    write_genome(fasta, contigs)
    bed, table_of_splits = folder / "valid.bed", folder / "names.txt"
    bed.write_text("".join(f"scaffold_{number}\t0\t{LENGTH}\n" for number in range(0, contigs, 100)))
    table_of_splits.write_text("".join(f"scaffold_{number}\n" for number in range(0, contigs, 50)))
    steps: dict[str, tuple[object, ...]] = {
        "`ldarnet shard --split-hash valid=0.02 --exclude`": (
            *("-m", "sharding.build", "--out", shards, fasta),
            *("--split-hash", "valid=0.02", "--exclude", bed),
        ),
        "the same again (already built)": (
            *("-m", "sharding.build", "--out", shards, fasta),
            *("--split-hash", "valid=0.02", "--exclude", bed),
        ),
        "`ldarnet shard --split valid=@names.txt`": (
            *("-m", "sharding.build", "--out", folder / "listed", fasta, "--split", f"valid=@{table_of_splits}"),
        ),
        "open the set": ("-c", _OPEN, shards),
        f"open it, lay out windows of {SHORT} bases, read 100 batches of 64": ("-c", _BATCHES, shards),
        "`ldarnet verify`": ("-m", "sharding.verify", shards, "--workers", 1),
        "`ldarnet stats`": ("-m", "sharding.stats", shards, "--workers", 1, "--out", folder / "stats"),
        "`ldarnet unshard`": ("-m", "sharding.export", shards, "--out", folder / "back.fa"),
    }
    rows = []
    for name, command in steps.items():
        seconds, peak = timed(*command)
        print(f"{name}: {seconds:.1f} s, {peak / 2**30:.2f} GiB", flush=True)
        rows.append((name, f"{seconds:.1f}", f"{peak / 2**30:.2f}"))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the result."""
    parser = ProgramParser("many_contigs", __doc__)
    parser.add_argument("--contigs", type=int, default=1_000_000, help="number of contigs")
    add_result_options(parser, "many-contigs")
    options = parser.parse_args(arguments)
    file = result_file(options.name, options.out)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_all(Path(folder), options.contigs)
    text = f"""{heading("A shard set of many short contigs", options)}

{options.contigs:,} random contigs of {LENGTH} bases. Each step is one process: seconds with the start of Python, and
peak memory.

{table(["step", "seconds", "GiB"], rows)}
"""
    write_result(file, text)


if __name__ == "__main__":
    run_program(main)
