"""Build a shard set from genomes: ``python -m sharding.build --out DIR [SPECIES=PATH ...]``."""

import argparse
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from rich.console import Console
from rich.table import Table

from ldarnet.console import make_console
from ldarnet.data.index import FORMAT_VERSION, INDEX_NAME, TABLES, Index
from ldarnet.errors import UserError
from ldarnet.genome.intervals import bases, intersect
from ldarnet.genome.sources import Source, parse_source, read_genomes
from ldarnet.io.files import read_errors, sha256_file, space_errors
from ldarnet.io.lock import Lock, acquire
from ldarnet.version import __version__
from sharding.assemble import assemble
from sharding.executors import Executor, Task, in_process, in_processes, on_ray
from sharding.genomes import BUNDLED_FASTA, BUNDLED_SPLITS
from sharding.parts import Job, make_plan, make_seal, pack_all, pack_planned
from sharding.program import run
from sharding.progress import shown
from sharding.receipts import Receipts
from sharding.splits import parse_contig_splits, parse_hash_shares
from sharding.splitting import Hashed, Splitting

BLOCK_BASES = 2**20
SHARD_BASES = 2**28
TILE_BASES = 2**20


def build(
    out: Path,
    genomes: Sequence[Source | Path],
    *,
    contig_splits: Mapping[str, Sequence[str]] | None = None,
    splits_bed: Path | None = None,
    hashed: Hashed | None = None,
    exclude: Sequence[Path] = (),
    block: int = BLOCK_BASES,
    shard_size: int = SHARD_BASES,
    workers: int | None = 1,
    ray: str | None = None,
    console: Console | None = None,
) -> tuple[Index, bool]:
    """Build a shard set, go on with one that was stopped, or find that it is built already. The index is written last.

    Args:
        out: folder of the set: absent, empty, or begun by an earlier build.
        genomes: the input, at least one file or URL.
        contig_splits: split name -> contig names; the other contigs are ``train``.
        splits_bed: BED file of splits, in place of ``contig_splits``.
        hashed: splits of tiles, in place of both.
        exclude: BED files of what is cut out of every split.
        block: bases in a block.
        shard_size: bases in a shard; a part of a source ends with the first contig end after as many.
        workers: processes; None: as many as there are cores and parts.
        ray: in place of processes, address of a Ray cluster, or "" for a local one.
        console: where progress is shown; nowhere by default.

    Returns:
        The index, and whether anything was built.

    Raises:
        UserError: bad input, a folder with other content, a full device, or a worker that was killed.
    """
    if block < 1 or shard_size < 1:
        raise UserError(f"--block {block} --shard-size {shard_size}: both must be at least 1")
    splitting = Splitting(contig_splits, splits_bed, hashed, exclude)
    sources = [genome if isinstance(genome, Source) else Source(str(genome)) for genome in genomes]
    with ThreadPoolExecutor() as pool:
        identities = list(pool.map(Source.identity, sources))
    recipe = {**splitting.recipe, "block": block, "shard_size": shard_size}
    with _only_builder(out):
        receipts = Receipts(out)
        if (out / INDEX_NAME).exists():
            index = _built_before(out, recipe, sources)
            receipts.remove()
            return index, False
        # What is packed does not depend on splits: to mend these costs nothing.
        made_by = f"format {FORMAT_VERSION}, zstandard {'.'.join(map(str, zstandard.ZSTD_VERSION))}"
        receipts.begin({"made_by": made_by, "block": block, "shard_size": shard_size}, identities)
        # Ray's workers have a working folder of their own.
        shared, read = (out, sources) if ray is None else (out.absolute(), [source.absolute() for source in sources])
        jobs = [Job(shared, number, source, block, shard_size) for number, source in enumerate(read)]
        sizes = [identity["size"] or 0 for identity in identities]
        count = workers or min(
            len(os.sched_getaffinity(0)), sum(_most_parts(*job) for job in zip(jobs, sizes, strict=True))
        )
        with (
            _executor(count, ray, workers) as executor,
            shown(console or make_console(quiet=True), receipts, sum(sizes)),
        ):
            _pack(jobs, sizes, executor, alone=count == 1 and ray is None)
        index = _index(receipts, jobs, recipe, splitting)
        _demand_unchanged(sources, identities)
        _demand_bases(index)
        index.save(out)
        receipts.remove()
        return Index.load(out), True


def _executor(count: int, ray: str | None, asked: int | None) -> AbstractContextManager[Executor]:
    if ray is not None:
        return on_ray(ray or None, asked)
    return in_process() if count == 1 else in_processes(count)


def _most_parts(job: Job, size: int) -> int:
    return 1 + (size // job.shard_size if job.can_be_planned else 0)


def _pack(jobs: Sequence[Job], sizes: Sequence[int], executor: Executor, *, alone: bool) -> None:
    """Pack what has no receipt yet. A worker that is alone reads a new file once, from front to back."""
    large = [job for job, size in zip(jobs, sizes, strict=True) if size > job.shard_size or job.source.is_2bit]
    planned = [job for job in large if job.can_be_planned and (job.plan is not None or not alone)]
    executor([(make_plan, (job,)) for job in planned if job.plan is None])
    tasks: list[tuple[int, Task]] = []
    for job, size in zip(jobs, sizes, strict=True):
        plan = job.plan
        missing = [part for part in range(plan.parts) if not job.receipts.has(job.number, part)] if plan else [0]
        if plan and job in planned:
            tasks += [(size // plan.parts, (pack_planned, (job, part))) for part in missing]
            tasks += [(size, (make_seal, (job,)))] if job.seal is None else []
        elif missing or job.seal is None:
            tasks.append((size, (pack_all, (job,))))
    # The longest first, so that no worker is left alone with one at the end.
    executor([task for _, task in sorted(tasks, key=lambda task: -task[0])])


def _index(receipts: Receipts, jobs: Sequence[Job], recipe: dict[str, Any], splitting: Splitting) -> Index:
    sources = [job.source for job in jobs]
    packed = assemble(receipts, sources)
    splits, excluded = splitting.apply(packed.contigs)
    described = [
        {"name": job.source.name, "species": job.source.species, **asdict(job.seal)} for job in jobs if job.seal
    ]
    recipe = {"sources": described, **recipe, "excluded": excluded}
    return Index(f"ldarnet {__version__}", recipe, packed.contigs, splits, packed.runs, packed.blocks, packed.shards)


def _built_before(out: Path, recipe: dict[str, Any], sources: Sequence[Source]) -> Index:
    index = Index.load(out)
    with ThreadPoolExecutor() as pool:
        same = all(pool.map(_is_source, index.recipe["sources"], sources)) and len(index.recipe["sources"]) == len(
            sources
        )
    other = [key for key in recipe if index.recipe.get(key) != recipe[key]] + ([] if same else ["sources"])
    if other:
        raise UserError(
            f"{out}: holds a set with other {', '.join(other)}; name another --out folder or delete this one"
        )
    for shard in index.shards:
        path = out / shard.name
        if not path.is_file() or path.stat().st_size != shard.size:
            raise UserError(f"{path}: missing or of another size; delete {out} and build it again")
    return index


def _is_source(described: dict[str, Any], source: Source) -> bool:
    """Whether a source is the one that a set was built from; of a remote one, only name and size are compared."""
    if (described["name"], described["species"]) != (source.name, source.species):
        return False
    if source.remote:
        return source.identity()["size"] in (described["size"], None)
    path = Path(source.location)
    with read_errors(path):
        return path.stat().st_size == described["size"] and sha256_file(path) == described["sha256"]


def _only_builder(out: Path) -> Lock:
    """Create the folder and lock it."""
    try:
        with space_errors(out):
            out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be used as a folder ({error.strerror}); name another --out") from None
    return acquire(out, f"{out}: another build is writing here; wait for it or name another --out")


def _demand_unchanged(sources: Sequence[Source], identities: Sequence[dict[str, Any]]) -> None:
    for source, identity in zip(sources, identities, strict=True):
        if source.identity() != identity:
            raise UserError(f"{source.location}: was changed while it was read; run the same command again")


def _demand_bases(index: Index) -> None:
    """Refuse a split in which there is nothing to learn from."""
    for split, rows in index.splits.items():
        if bases(rows) == _other(index, rows):
            raise UserError(f"split {split!r}: it holds no A, C, G or T, so no window is left; give it other contigs")


def _other(index: Index, rows: np.ndarray) -> int:
    """Letters in the intervals of a split that are none of A, C, G, T."""
    owner = np.repeat(np.arange(len(index.contigs)), index.contigs.runs)
    return bases(intersect(rows, np.column_stack((owner, index.runs))))


def _table(index: Index) -> Table:
    excluded: dict[str, int] = index.recipe["excluded"]
    table = Table(*("split", "contigs", "bases", "N and other letters"), *(["excluded"] if excluded else []))
    for column in table.columns[1:]:
        column.justify = "right"
    for split, rows in index.splits.items():
        counts = (len(np.unique(rows[:, 0])), bases(rows), _other(index, rows))
        table.add_row(split, *(f"{count:,}" for count in (*counts, *([excluded[split]] if excluded else []))))
    return table


def _summary(out: Path, index: Index, built: bool) -> str:
    total = int(index.contigs.length.sum())
    size = sum(shard.size for shard in index.shards) + sum(
        (out / name).stat().st_size for name in (INDEX_NAME, *TABLES)
    )
    counted = [(len(index.contigs), "contig"), (total, "base"), (len(index.shards), "shard")]
    counts = [f"{number:,} {noun}{'' if number == 1 else 's'}" for number, noun in counted]
    if index.species != [""]:
        counts.insert(0, f"{len(index.species):,} species")
    return (
        f"{'built' if built else 'already built'}: {out}: {', '.join(counts)}, "
        f"{8 * size / total:.3f} bits per base, fingerprint {index.fingerprint[:12]}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sharding.build",
        description="Turn genomes into a shard set. A build that was stopped goes on with the same command.",
    )
    parser.add_argument(
        "genomes",
        nargs="*",
        metavar="[SPECIES=]PATH",
        help="FASTA files, plain or packed by gzip, bgzip, zstandard, bzip2 or xz, and .2bit files; paths or URLs "
        "(http, https, s3, gs ...); none: the bundled yeast genome",
    )
    parser.add_argument("--genomes", dest="table", type=Path, metavar="FILE", help="more of them: species, tab, path")
    parser.add_argument("--out", required=True, type=Path, help="folder of the shard set")
    splits = parser.add_mutually_exclusive_group()
    splits.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="NAME=CONTIG,...",
        help="contigs of a split, or SPECIES/ for all of a species, or @FILE with one name a line (repeatable); "
        "all others are train",
    )
    splits.add_argument("--splits-bed", type=Path, metavar="FILE", help="intervals: contig, start, end, split")
    splits.add_argument(
        "--split-hash",
        action="append",
        default=[],
        metavar="NAME=SHARE,...",
        help="deal out tiles of every contig by a hash of species, contig and place; the rest is train",
    )
    parser.add_argument("--hash-tile", type=int, default=TILE_BASES, metavar="BASES", help="in a tile (%(default)s)")
    parser.add_argument("--hash-seed", type=int, default=0, metavar="N", help="another one deals otherwise")
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="BED file of what no split may hold, such as loci of benchmarks (repeatable)",
    )
    parser.add_argument("--block", type=int, default=BLOCK_BASES, help="bases in a block (%(default)s)")
    parser.add_argument("--shard-size", type=int, default=SHARD_BASES, help="bases in a shard (%(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (as many as cores and parts of the input)")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="let a Ray cluster do it, all of whose machines see the same folders; without an address, a local one",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers {options.workers}: it must be at least 1")
    contig_splits = parse_contig_splits(options.split)
    shares = parse_hash_shares(options.split_hash) if options.split_hash else {}
    sources = [parse_source(argument) for argument in options.genomes]
    sources += read_genomes(options.table) if options.table else []
    console = make_console()
    if not sources:
        console.print("no genome was named: taking the yeast chromosomes that come with LDARNet")
        sources = [Source(str(BUNDLED_FASTA))]
        if not (options.splits_bed or contig_splits or shares):
            contig_splits = BUNDLED_SPLITS
    index, built = build(
        options.out,
        sources,
        contig_splits=contig_splits,
        splits_bed=options.splits_bed,
        hashed=Hashed(shares, options.hash_tile, options.hash_seed) if shares else None,
        exclude=options.exclude,
        block=options.block,
        shard_size=options.shard_size,
        workers=options.workers,
        ray=options.ray,
        console=console,
    )
    console.print(_table(index))
    console.print(_summary(options.out, index, built))
    return 0


if __name__ == "__main__":
    run(main)
