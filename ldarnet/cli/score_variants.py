"""`ldarnet score-variants`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldarnet.cli.arguments import ModelFolder, with_parent
from ldarnet.cli.regions import DeviceName, GenomeFile, RenameFile, WindowLength, open_genome
from ldarnet.cli.tracks import BATCH_BASES, load_network
from ldarnet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from ldarnet.genomics.variants.alleles import Allele

VariantFile = Annotated[
    Path,
    typer.Argument(metavar="VARIANTS", help="VCF, BCF, or table (.parquet, .tsv, .csv) with chrom, pos, ref, alt."),
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
) -> None:
    """Score variants: log-likelihood ratios of ALT minus REF, embedding distance and changed boundaries.

    Negative ratios mean that the model prefers REF. Insertions and deletions have no ratios.
    """
    from ldarnet.console import percent_bar
    from ldarnet.genomics.boundaries import check_reads_bases
    from ldarnet.genomics.variants.run import locate, score_alleles, unscored
    from ldarnet.genomics.variants.score import all_scores

    _check_files(variants, out)
    network = load_network(model, True, device)
    check_reads_bases(network.config)
    length = _window(model, window)
    alleles = _read(variants)
    source = open_genome(genome, rename)
    located = locate(source, alleles, f"{variants}: {_unit(variants)}")
    with percent_bar("scoring", len(alleles)) as advance:
        values = score_alleles(
            source,
            alleles,
            located,
            network,
            all_scores(),
            window=length,
            batch=batch or max(BATCH_BASES.get(network.device.type, BATCH_BASES["cpu"]) // length, 1),
            advance=advance,
        )
    for path in out:
        _write(path, variants, alleles, values, f"window={length}; model={_plain(model)}; genome={_plain(genome)}")
    print(f"wrote {', '.join(map(str, out))}: {len(alleles):,} alleles; windows of {length:,} bases")
    for line in unscored(alleles, length):
        print(line)


def _check_files(variants: Path, out: Sequence[Path]) -> None:
    """Check the suffixes, and that the packages that they need are installed."""
    from ldarnet.extras import optional_imports
    from ldarnet.genomics.variants import table, vcf

    is_vcf = variants.name.lower().endswith(vcf.INPUT_SUFFIXES)
    if not is_vcf and not table.is_table(variants):
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


def _unit(variants: Path) -> str:
    from ldarnet.genomics.variants import table

    return table.unit(variants)


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


def _read(variants: Path) -> list[Allele]:
    from ldarnet.genomics.variants import table, vcf

    if not table.is_table(variants):
        alleles = list(vcf.read_alleles(variants))
        if not alleles:
            raise UserError(f"{variants}: no alternate alleles; choose a file with at least one")
        return alleles
    return list(table.table_alleles(variants, *table.read_table(variants)))


def _write(path: Path, variants: Path, alleles: Sequence[Allele], values: np.ndarray, note: str) -> None:
    from ldarnet.genomics.variants import table, vcf
    from ldarnet.genomics.variants.score import all_scores
    from ldarnet.io.files import atomic_path

    with atomic_path(with_parent(path)) as partial:
        if path.suffix == table.PARQUET_SUFFIX:
            rows = table.read_table(variants)[0] if table.is_table(variants) else table.alleles_as_table(alleles)
            table.write_parquet(partial, table.with_scores(rows, all_scores(), values))
            return
        with vcf.vcf_writer(partial, path.name) as file:
            for line in vcf.annotated(vcf.read_lines(variants), all_scores(), values, note):
                file.write(f"{line}\n".encode())


def _plain(path: Path) -> str:
    """Name of a file for a header line, without quotation marks."""
    from ldarnet.printable import printable

    return printable(path.resolve().name).replace('"', "").replace("\\", "")
