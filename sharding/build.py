"""Build a shard set from genomes: ``ldarnet shard --out DIR [SPECIES=PATH ...]``."""

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import zstandard
from rich.console import Console
from rich.table import Table

from ldarnet.console import make_console
from ldarnet.data.format import MAX_BLOCK_BASES
from ldarnet.data.index import Index
from ldarnet.data.index_file import FORMAT_VERSION, INDEX_NAME, TABLES
from ldarnet.errors import UserError
from ldarnet.genome.intervals import intersect, total_bases
from ldarnet.genome.sources import SequenceSource, parse_source, read_genomes
from ldarnet.io.files import read_errors, sha256_file, space_errors
from ldarnet.io.lock import Lock, acquire
from ldarnet.program import run
from ldarnet.threads import usable_cpus
from ldarnet.version import __version__
from sharding.assemble import assemble
from sharding.executors import Executor, in_process, in_processes, on_ray
from sharding.genomes import BUNDLED_FASTA, BUNDLED_SPLITS
from sharding.parts import PackJob, pack_source
from sharding.progress import show_progress
from sharding.receipts import BuildRequest, Receipts, SourceIdentity
from sharding.splits import parse_contig_splits, parse_hash_fractions
from sharding.splitting import HashSplits, Splitting

BLOCK_BASES = 2**20
SHARD_BASES = 2**28
TILE_BASES = 2**20


def build(
    out: Path,
    genomes: Sequence[SequenceSource | Path],
    *,
    contig_splits: Mapping[str, Sequence[str]] | None = None,
    splits_bed: Path | None = None,
    hashed: HashSplits | None = None,
    exclude: Sequence[Path] = (),
    block: int = BLOCK_BASES,
    shard_size: int = SHARD_BASES,
    workers: int | None = 1,
    ray: str | None = None,
    console: Console | None = None,
) -> tuple[Index, bool]:
    """Build a shard set, or resume an interrupted build.

    If ``out`` holds a complete set, only check that it matches the arguments and that its shards have the right sizes.
    Otherwise, each worker packs one source at a time, and the index is written last.

    Args:
        out: output folder: new, empty, or holding an unfinished build or a complete set.
        genomes: input files or URLs, at least one.
        contig_splits: split name -> contig names; all other contigs belong to ``train``.
        splits_bed: BED file of splits, instead of ``contig_splits``.
        hashed: splits by hashed tiles, instead of ``contig_splits`` or ``splits_bed``.
        exclude: BED files of intervals to exclude from every split.
        block: block length in bases.
        shard_size: shard length in bases.
        workers: number of worker processes. None starts one per core, but no more than there are sources.
        ray: address of a Ray cluster to use instead of worker processes. "" starts a local Ray cluster; None uses
            worker processes.
        console: console that shows progress; None shows no progress.

    Returns:
        The index, and whether this call built the set (False if it was complete already).

    Raises:
        UserError: the input is invalid, the folder has other content, the disk is full, or a worker was killed.
    """
    if not 1 <= block <= MAX_BLOCK_BASES or shard_size < 1:
        raise UserError(
            f"--block {block} --shard-size {shard_size}: both values must be at least 1, and --block at most "
            f"{MAX_BLOCK_BASES}"
        )
    splitting = Splitting(contig_splits, splits_bed, hashed, exclude)
    sources = [genome if isinstance(genome, SequenceSource) else SequenceSource(str(genome)) for genome in genomes]
    with ThreadPoolExecutor() as pool:
        identities = list(pool.map(SequenceSource.identity, sources))
    recipe = {**splitting.recipe, "block": block, "shard_size": shard_size}
    with _lock_folder(out):
        receipts = Receipts(out)
        if (out / INDEX_NAME).exists():
            index = _check_built(out, recipe, sources)
            receipts.remove()
            return index, False
        # Shards do not depend on the splits, so an unfinished build can be resumed with different splits.
        made_by = f"format {FORMAT_VERSION}, zstandard {'.'.join(map(str, zstandard.ZSTD_VERSION))}"
        receipts.begin(BuildRequest(made_by, block, shard_size), [SourceIdentity(**found) for found in identities])
        # Ray workers have their own working directory.
        shared, read = (out, sources) if ray is None else (out.absolute(), [source.absolute() for source in sources])
        jobs = [PackJob(shared, number, source, block, shard_size) for number, source in enumerate(read)]
        sizes = [identity["size"] or 0 for identity in identities]
        console = console or make_console(quiet=True)
        with _executor(workers, len(jobs), ray) as executor, show_progress(console, receipts, sum(sizes)):
            # Pack the largest source first, so that the other workers do not wait for it at the end.
            order = sorted(range(len(jobs)), key=lambda number: -sizes[number])
            executor([(pack_source, (jobs[number],)) for number in order if not jobs[number].is_done])
        index = _index(receipts, jobs, recipe, splitting)
        _check_unchanged(sources, identities)
        _check_bases(index)
        index.save(out)
        receipts.remove()
        return Index.load(out), True


def _executor(workers: int | None, sources: int, ray: str | None) -> AbstractContextManager[Executor]:
    if ray is not None:
        return on_ray(ray or None, workers)
    count = workers or min(usable_cpus(), sources)
    return in_process() if count == 1 else in_processes(count)


def _index(receipts: Receipts, jobs: Sequence[PackJob], recipe: dict[str, Any], splitting: Splitting) -> Index:
    sources = [job.source for job in jobs]
    packed = assemble(receipts, sources)
    splits, excluded = splitting.apply(packed.contigs)
    described = [
        {"name": job.source.name, "species": job.source.species, "size": seal.size, "sha256": seal.sha256}
        for job in jobs
        if (seal := job.seal)
    ]
    recipe = {"sources": described, **recipe, "excluded": excluded}
    return Index(f"ldarnet {__version__}", recipe, packed.contigs, splits, packed.runs, packed.blocks, packed.shards)


def _check_built(out: Path, recipe: dict[str, Any], sources: Sequence[SequenceSource]) -> Index:
    index = Index.load(out)
    with ThreadPoolExecutor() as pool:
        same = all(pool.map(_is_source, index.recipe["sources"], sources)) and len(index.recipe["sources"]) == len(
            sources
        )
    other = [key for key in recipe if index.recipe.get(key) != recipe[key]] + ([] if same else ["sources"])
    if other:
        raise UserError(
            f"{out}: holds a shard set with different {', '.join(other)}; choose another --out or delete this folder"
        )
    for shard in index.shards:
        path = out / shard.name
        if not path.is_file() or path.stat().st_size != shard.size:
            raise UserError(f"{path}: missing or has the wrong size; delete {out} and build the set again")
    return index


def _is_source(described: dict[str, Any], source: SequenceSource) -> bool:
    """Whether a source matches its entry in the recipe of a set. Hashes are compared only for local sources."""
    if (described["name"], described["species"]) != (source.name, source.species):
        return False
    if source.remote:
        return source.identity()["size"] in (described["size"], None)
    path = Path(source.location)
    with read_errors(path):
        return path.stat().st_size == described["size"] and sha256_file(path) == described["sha256"]


def _lock_folder(out: Path) -> Lock:
    """Create the folder and lock it."""
    try:
        with space_errors(out):
            out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be used as a folder ({error.strerror}); choose another --out") from None
    return acquire(out, f"{out}: another build is writing to this folder; wait until it ends or choose another --out")


def _check_unchanged(sources: Sequence[SequenceSource], identities: Sequence[dict[str, Any]]) -> None:
    for source, identity in zip(sources, identities, strict=True):
        if source.identity() != identity:
            raise UserError(f"{source.location}: changed while it was being read; run the same command again")


def _check_bases(index: Index) -> None:
    """Raise if a split contains no A, C, G or T."""
    for split, rows in index.splits.items():
        if total_bases(rows) == _other(index, rows):
            raise UserError(
                f"split {split!r}: contains no A, C, G or T; change --split, --splits-bed or --split-hash, or add "
                "sequences to the input"
            )


def _other(index: Index, rows: np.ndarray) -> int:
    """Count the codes other than A, C, G and T in the intervals of a split."""
    owner = np.repeat(np.arange(len(index.contigs)), index.contigs.runs)
    return total_bases(intersect(rows, np.column_stack((owner, index.runs))))


def _table(index: Index) -> Table:
    excluded: dict[str, int] = index.recipe["excluded"]
    table = Table(*("split", "contigs", "bases", "N and other codes"), *(["excluded"] if excluded else []))
    for column in table.columns[1:]:
        column.justify = "right"
    for split, rows in index.splits.items():
        counts = (len(np.unique(rows[:, 0])), total_bases(rows), _other(index, rows))
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
        f"{f'built {out}' if built else f'{out} is already built'}: {', '.join(counts)}, "
        f"{8 * size / total:.3f} bits per base on disk, fingerprint {index.fingerprint[:12]}"
    )


def main(
    genomes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SPECIES=]PATH",
            help="FASTA files (plain, gzip, bgzip, zstandard, bzip2 or xz) and .2bit files, as paths or URLs (http, "
            "https, s3, gs ...). Default: the bundled yeast chromosomes.",
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Output folder.", metavar="DIR")],
    table: Annotated[
        Path | None,
        typer.Option(
            "--genomes",
            metavar="FILE",
            help="Table of additional genomes. Each line is a species, a tab, and a path or URL.",
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=CONTIG,...",
            help="Contigs of a split (repeatable). SPECIES/ stands for all contigs of a species, and @FILE for the "
            "names in a file, one per line. The remaining contigs go to split 'train'.",
        ),
    ] = None,
    splits_bed: Annotated[
        Path | None, typer.Option(metavar="FILE", help="BED file with split names in the fourth column.")
    ] = None,
    split_hash: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FRACTION,...",
            help="Cut all contigs into tiles, and assign this fraction of the tiles to a split. A hash of species, "
            "contig and position selects the tiles. The remaining tiles go to split 'train'.",
        ),
    ] = None,
    hash_tile: Annotated[int, typer.Option(metavar="BASES", help="Tile length for --split-hash.")] = TILE_BASES,
    hash_seed: Annotated[int, typer.Option(metavar="N", help="Seed for --split-hash.")] = 0,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="BED file of intervals to exclude from every split, such as benchmark loci (repeatable).",
        ),
    ] = None,
    block: Annotated[int, typer.Option(metavar="BASES", help="Block length.")] = BLOCK_BASES,
    shard_size: Annotated[int, typer.Option(metavar="BASES", help="Shard length.")] = SHARD_BASES,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Worker processes. Default: one per core.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Build on a Ray cluster whose machines share the input and output folders; without an address, start "
            "a local cluster.",
        ),
    ] = None,
) -> None:
    """Build a shard set from genomes.

    Run the same command again to resume an interrupted build.
    """
    if sum(map(bool, (split, splits_bed, split_hash))) > 1:
        raise UserError("--split, --splits-bed and --split-hash are mutually exclusive; use one of them")
    contig_splits = parse_contig_splits(split or [])
    fractions = parse_hash_fractions(split_hash) if split_hash else {}
    sources = [parse_source(argument) for argument in genomes or []]
    sources += read_genomes(table) if table else []
    console = make_console()
    if not sources:
        console.print("no genome given; using the bundled yeast chromosomes")
        sources = [SequenceSource(str(BUNDLED_FASTA))]
        if not (splits_bed or contig_splits or fractions):
            contig_splits = BUNDLED_SPLITS
    index, built = build(
        out,
        sources,
        contig_splits=contig_splits,
        splits_bed=splits_bed,
        hashed=HashSplits(fractions, hash_tile, hash_seed) if fractions else None,
        exclude=exclude or [],
        block=block,
        shard_size=shard_size,
        workers=workers,
        ray=ray,
        console=console,
    )
    console.print(_table(index))
    console.print(_summary(out, index, built))


if __name__ == "__main__":
    sys.exit(run(main, name="python -m sharding.build"))
