"""Build one shard set from several genomes and train on their mixture; measure sizes and speed.

    python -m benchmarks.genomes human=chr20.fa.gz yeast=S288C.fsa.gz ecoli=K12.fasta.gz

Every command runs in its own process, as in a shell. The exported set is compared with the input base by base, to check
that the shards are lossless.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.record import ROOT, ProgramParser, add_result_options, heading, result_file, run_program, write_result
from benchmarks.timed import timed
from ldarnet.config import load_config
from ldarnet.data import ShardSet, Windows
from ldarnet.genome.fasta import Header, read_fasta
from ldarnet.io import run_files
from ldarnet.markdown import table
from ldarnet.runtime.metrics_file import read_metrics

CONFIG = ROOT / "configs/pretrain/mixture.yaml"


def contig_hashes(fasta: Path) -> dict[str, tuple[int, str]]:
    """Compute length and SHA-256 of each contig, by name. The hash depends on case, so it covers soft-masking."""
    found: dict[str, tuple[int, str]] = {}
    name, length, digest = "", 0, hashlib.sha256()
    for item in read_fasta(fasta):
        if isinstance(item, Header):
            name, length, digest = item.name, 0, hashlib.sha256()
        else:
            digest.update(item)
            length += len(item)
            found[name] = length, digest.copy().hexdigest()
    return found


def sizes(shards: ShardSet, lower: dict[str, int]) -> list[Sequence[object]]:
    """Build one table row per species: name, contigs, bases, fractions of N and lower case, stored bits per base.

    Args:
        shards: shard set of all species.
        lower: number of soft-masked bases by species.
    """
    index, rows = shards.index, []
    blocks = index.blocks
    run_species = np.repeat(index.contigs.species, index.contigs.runs)
    members = -(-blocks.size // 512) * 512 + 512  # a tar member with its header
    for number, name in enumerate(index.species):
        of_species = index.contigs.species == number
        bases = int(index.contigs.length[of_species].sum())
        other = int((index.runs[run_species == number] @ [-1, 1]).sum())
        stored = int(members[index.contigs.species[blocks.contig] == number].sum())
        rows.append([name, of_species.sum(), bases, other / bases, lower[name] / bases, 8 * stored / bases])
    return rows


def lower_case(fasta: Path) -> int:
    """Count the soft-masked bases in a FASTA file."""
    return sum(
        int((np.frombuffer(item, np.uint8) & 0x20 != 0).sum()) for item in read_fasta(fasta) if type(item) is bytes
    )


def measure(genomes: dict[str, list[Path]], options: argparse.Namespace, work: Path) -> str:
    """Build, verify and export shards, compare the export with the input, and train; return a Markdown report."""
    shards, exported, run = work / "shards", work / "export", work / "run"
    named = [f"{species}={path.absolute()}" for species, paths in genomes.items() for path in paths]
    build, _ = timed(
        "-m", "sharding.build", "--out", shards, "--split-hash", "valid=0.05", "--hash-tile", 2**18, *named
    )
    verify, _ = timed("-m", "sharding.verify", shards)
    exported.mkdir()
    export, differing = 0.0, []
    for species, paths in genomes.items():
        file = exported / f"{species}.fa"
        export += timed("-m", "sharding.export", shards, "--species", species, "--out", file)[0]
        if contig_hashes(file) != {name: found for path in paths for name, found in contig_hashes(path).items()}:
            differing.append(species)
        file.unlink()
    returned = (
        f"Exported contigs DIFFER from the input in these species: {', '.join(differing)}."
        if differing
        else "Every exported contig equals the input base by base, including case."
    )
    opened = ShardSet.open(shards)
    rows = sizes(opened, {species: sum(map(lower_case, paths)) for species, paths in genomes.items()})
    bases = int(opened.index.contigs.length.sum())
    stored = sum(file.stat().st_size for file in shards.iterdir())
    seconds, _ = timed(
        "launch/pretrain.py", "--config", CONFIG, f"run.dir={run}", f"data.shards={shards}",
        f"training.steps={options.steps}", "tracking.mlflow=false",
    )  # fmt: skip
    spent = {"building": build, "verifying": verify, "exporting": export}
    speeds = [[name, f"{time:.1f}", f"{bases / time / 1e6:.0f}"] for name, time in spent.items()]
    return "\n\n".join([
        "## Genomes",
        table(
            ["species", "contigs", "bases", "not A, C, G, T", "lower case", "bits per base"],
            [[name, f"{contigs:,}", f"{number:,}", *rest] for name, contigs, number, *rest in rows],
        ),
        f"{bases:,} bases at {8 * stored / bases:.3f} bits per base, including the index. {returned}",
        "## Programs",
        table(["", "seconds", "Mb/s"], speeds),
        f"Times include Python start-up; {os.cpu_count()} cores.",
        f"## {options.steps} training steps on the mixture",
        _training(opened, run, seconds),
    ])  # fmt: skip


def _training(shards: ShardSet, run: Path, seconds: float) -> str:
    lines = read_metrics(run / run_files.METRICS)
    config = load_config(run / run_files.CONFIG)
    windows = Windows(
        shards, "train", config.data.length, max_n_run=config.data.max_n_run, temperature=config.data.temperature
    )
    position = config.training.batch * lines[-1]["step"]
    epochs = windows.epochs(position)
    counts = {source.name: source.windows for source in windows.sources}
    sources = [
        [source.name, f"{source.windows:,}", source.share, f"{epochs[source.name] * counts[source.name]:,.0f}"]
        for source in windows.sources
    ]
    train = [line for line in lines if line["split"] == "train"]
    valid = [line for line in lines if line["split"] == "valid"]
    selected = [train[0], *train[len(train) // 4 - 1 :: len(train) // 4]]
    return "\n\n".join([
        f"{CONFIG.relative_to(ROOT)}: preset {config.model.preset}, {config.training.batch} windows of "
        f"{config.data.length:,} bases per step, temperature {config.data.temperature:g}, one process; small scale. "
        f"The run took {seconds:.0f} s, at {np.median([line['bases_per_second'] for line in train]):,.0f} bases/s.",
        table(["species", "windows per epoch", "fraction of the mixture", "windows read"], sources),
        table(["step", "training loss, nats per target base"], [[line["step"], line["mlm_loss"]] for line in selected]),
        table(
            ["step", "validation loss at masked positions", "unigram baseline", "bases per chunk"],
            [[line["step"], line["mask_loss"], line["composition_loss"], line["bases_per_chunk"][0]] for line in valid],
        ),
    ])  # fmt: skip


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ProgramParser("genomes", __doc__)
    add = parser.add_argument
    add("genomes", nargs="+", metavar="SPECIES=FASTA", help="species and FASTA file; repeat a species for more files")
    add("--steps", type=int, default=200, help="training steps")
    add("--work", type=Path, help="folder for temporary files")
    add_result_options(parser, "genomes")
    options = parser.parse_args(arguments)
    if wrong := [word for word in options.genomes if "=" not in word]:
        parser.error(f"{wrong[0]}: not SPECIES=FASTA")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the results file and print its path."""
    options = parse(arguments)
    file = result_file(options.name, options.out)
    genomes: dict[str, list[Path]] = {}
    for name, _, path in (word.partition("=") for word in options.genomes):
        genomes.setdefault(name, []).append(Path(path))
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        found = measure(genomes, options, Path(work).absolute())
    write_result(file, f"{heading(f'{len(genomes)} species in one shard set', options)}\n\n{found}\n")


if __name__ == "__main__":
    run_program(main)
