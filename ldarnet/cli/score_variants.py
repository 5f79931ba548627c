"""`ldarnet score-variants`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldarnet.cli.arguments import ModelFolder, with_parent
from ldarnet.cli.regions import DeviceName, GenomeFile, RenameFile, WindowLength, open_genome
from ldarnet.cli.tracks import BATCH_BASES, load_network
from ldarnet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from ldarnet.genomics.genome import Genome
    from ldarnet.genomics.variants.alleles import Allele
    from ldarnet.genomics.variants.inputs import VariantInput
    from ldarnet.genomics.variants.run import Located
    from ldarnet.genomics.variants.unfinished import UnfinishedScores

VariantFile = Annotated[
    Path,
    typer.Argument(
        metavar="VARIANTS",
        help="VCF, BCF, or table (.parquet, .tsv, .csv) with chrom, pos, ref, alt; "
        "or a published set, see ldarnet variant-sets.",
    ),
]
SetCache = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Folder for downloaded sets. Default: ~/.cache/ldarnet/variants."),
]


def score_variants(
    model: ModelFolder,
    variants: VariantFile,
    genome: GenomeFile,
    out: Annotated[
        list[Path],
        typer.Option(metavar="FILE", help="File to write: .vcf, .vcf.gz (bgzip) or .parquet; may be repeated."),
    ],
    rename: RenameFile = None,
    window: WindowLength = None,
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Alleles per forward pass. Default: by length and device.")
    ] = None,
    device: DeviceName = None,
    cache: SetCache = None,
) -> None:
    """Score variants: log-likelihood ratios of ALT minus REF, embedding distance and changed boundaries.

    Negative ratios mean that the model prefers REF. Insertions and deletions have no ratios. To resume an interrupted
    run, run the same command again.
    """
    from ldarnet.genomics.boundaries import check_reads_bases
    from ldarnet.genomics.variants.inputs import read_variants
    from ldarnet.genomics.variants.run import locate, unscored

    _check_files(variants, out)
    network = load_network(model, True, device)
    check_reads_bases(network.config)
    length = _window(model, window)
    given = read_variants(variants, cache)
    source = open_genome(genome, rename)
    alleles = given.in_genome(source)
    located = locate(source, alleles, given.where)
    per_pass = batch or max(BATCH_BASES.get(network.device.type, BATCH_BASES["cpu"]) // length, 1)
    with _unfinished(out[0], network, source, alleles, window=length, batch=per_pass) as unfinished:
        values = _score(source, alleles, located, network, unfinished, window=length, batch=per_pass)
        for path in out:
            _write(path, variants, given, values, f"window={length}; model={_plain(model)}; genome={_plain(genome)}")
        unfinished.remove()
    print(f"wrote {', '.join(map(str, out))}: {len(alleles):,} alleles; windows of {length:,} bases")
    for line in unscored(alleles, length):
        print(line)


def _check_files(variants: Path, out: Sequence[Path]) -> None:
    """Check the suffixes, and that the packages that they need are installed."""
    from ldarnet.extras import optional_imports
    from ldarnet.genomics.variants import table, vcf
    from ldarnet.genomics.variants.inputs import published_set

    published = published_set(variants)
    is_vcf = variants.name.lower().endswith(vcf.INPUT_SUFFIXES)
    if not is_vcf and not published and not table.is_table(variants):
        known = ", ".join((*vcf.INPUT_SUFFIXES, *table.SUFFIXES))
        raise UserError(f"{variants}: unknown format; choose a file that ends with one of {known}")
    for path in out:
        if path.name.endswith(vcf.OUTPUT_SUFFIXES):
            if not is_vcf:
                raise UserError(f"--out {path}: a table cannot be written as VCF; choose a .parquet name")
        elif path.suffix != table.PARQUET_SUFFIX:
            known = ", ".join((*vcf.OUTPUT_SUFFIXES, table.PARQUET_SUFFIX))
            raise UserError(f"--out {path}: unknown format; choose a name that ends with one of {known}")
        if path.exists() and path.samefile(variants):
            raise UserError(f"--out {path}: this is the input; choose another name")
    with optional_imports("ldarnet score-variants"):
        if variants.suffix == ".bcf" or any(path.suffix in (".gz", ".bgz") for path in out):
            import pysam  # noqa: F401
        if not is_vcf or any(path.suffix == table.PARQUET_SUFFIX for path in out):
            import pyarrow  # noqa: F401


def _window(model: Path, window: int | None) -> int:
    """Window length; warn if it is not the length in pretraining."""
    from ldarnet.genomics.windows import MIN_WINDOW, UNKNOWN_WINDOW
    from ldarnet.model.folder import window_length

    trained = window_length(model)
    if window is None:
        if trained is None:
            print(f"{model}: length in pretraining unknown; using --window {UNKNOWN_WINDOW}", file=sys.stderr)
        return trained or UNKNOWN_WINDOW
    if window < MIN_WINDOW:
        raise UserError(f"--window {window}: too short; choose at least {MIN_WINDOW} bases")
    if trained not in (None, window):
        print(f"--window {window}: the model was pretrained on windows of {trained:,} bases", file=sys.stderr)
    return window


def _unfinished(
    out: Path, network: Any, genome: Genome, alleles: Sequence[Allele], *, window: int, batch: int
) -> UnfinishedScores:
    """Hidden folder beside ``out`` for the scores of an interrupted run."""
    from ldarnet.genomics.tracks import model_hash
    from ldarnet.genomics.variants.score import all_scores
    from ldarnet.genomics.variants.unfinished import ScoringKey, UnfinishedScores, alleles_hash, genome_hash
    from ldarnet.io.files import staging_path
    from ldarnet.version import __version__

    key = ScoringKey(
        model=model_hash(network),
        genome=genome_hash(genome),
        variants=alleles_hash(alleles),
        window=window,
        batch=batch,
        device=network.device.type,
        scores=[score.name for score in all_scores()],
        ldarnet=__version__,
    )
    return UnfinishedScores(staging_path(with_parent(out)), key)


def _score(
    genome: Genome,
    alleles: Sequence[Allele],
    located: Located,
    network: Any,
    unfinished: UnfinishedScores,
    *,
    window: int,
    batch: int,
) -> np.ndarray:
    from ldarnet.console import percent_bar
    from ldarnet.genomics.variants.run import score_alleles
    from ldarnet.genomics.variants.score import all_scores

    finished = len(unfinished.read(len(alleles))[0])
    if finished:
        print(f"resuming with {finished:,} of {len(alleles):,} alleles scored", file=sys.stderr)
    with percent_bar("scoring", len(alleles)) as advance:
        return score_alleles(
            genome,
            alleles,
            located,
            network,
            all_scores(),
            window=window,
            batch=batch,
            advance=advance,
            unfinished=unfinished,
        )


def _write(path: Path, variants: Path, given: VariantInput, values: np.ndarray, note: str) -> None:
    from ldarnet.genomics.variants import table, vcf
    from ldarnet.genomics.variants.score import all_scores
    from ldarnet.io.files import atomic_path

    with atomic_path(with_parent(path)) as partial:
        if path.suffix == table.PARQUET_SUFFIX:
            rows = table.alleles_as_table(given.alleles) if given.rows is None else given.rows
            table.write_parquet(partial, table.with_scores(rows, all_scores(), values))
            return
        with vcf.vcf_writer(partial, path.name) as file:
            for line in vcf.annotated(vcf.read_lines(variants), all_scores(), values, note):
                file.write(f"{line}\n".encode())


def _plain(path: Path) -> str:
    """Name of a file for a header line, without quotation marks."""
    from ldarnet.printable import printable

    return printable(path.resolve().name).replace('"', "").replace("\\", "")
