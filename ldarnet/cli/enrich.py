"""`ldarnet enrich`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldarnet.cli.arguments import ModelFolder
from ldarnet.cli.regions import (
    DeviceName,
    GenomeFile,
    RegionNames,
    RenameFile,
    WindowBatch,
    WindowLength,
    WindowMargin,
    open_genome,
)
from ldarnet.cli.tracks import BATCH_BASES, load_network, window_grid
from ldarnet.errors import UserError
from ldarnet.extras import optional_imports

if TYPE_CHECKING:
    from ldarnet.genomics.enrichment.features import Annotation, Loci
    from ldarnet.genomics.enrichment.landscape import Landscape

MIN_LOCI = 10
"""Kinds with fewer loci are not compared."""


def enrich(
    model: ModelFolder,
    genome: GenomeFile,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write.")],
    annotation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Genes (GFF3 or GTF), or BED file of a kind of features, as FILE or NAME=FILE; may be repeated.",
        ),
    ] = None,
    features: Annotated[
        str | None, typer.Option(metavar="LIST", help="Kinds to compare, such as tss,splice_donor. Default: all.")
    ] = None,
    motifs: Annotated[Path | None, typer.Option(metavar="FILE", help="Motifs in MEME format.")] = None,
    motif: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Motif to use; may be repeated. Default: all.")
    ] = None,
    motif_p: Annotated[float, typer.Option(min=1e-9, max=0.1, metavar="P", help="p-value of motif hits.")] = 1e-4,
    bpe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Byte-pair encoding to compare with, a tokenizer.json.")
    ] = None,
    other: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL", help="Model to compare boundaries with, such as one of another seed; may be repeated."
        ),
    ] = None,
    windows: Annotated[
        int, typer.Option(min=0, metavar="N", help="Random windows for strand symmetry, edits and --other; 0 for none.")
    ] = 16,
    region: RegionNames = None,
    rename: RenameFile = None,
    stage: Annotated[int, typer.Option(min=0, metavar="N", help="Stage whose boundaries are compared.")] = 0,
    radius: Annotated[
        int, typer.Option(min=0, max=100, metavar="BASES", help="Bases on both sides of a position that count.")
    ] = 2,
    flank: Annotated[int, typer.Option(min=1, max=1000, metavar="BASES", help="Bases on both sides in profiles.")] = 60,
    max_loci: Annotated[
        int, typer.Option(min=MIN_LOCI, metavar="N", help="Loci per kind; others are dropped at random.")
    ] = 5000,
    shuffled_loci: Annotated[
        int, typer.Option(min=1, metavar="N", help="Loci per kind whose bases are shuffled for the model to read.")
    ] = 100,
    permutations: Annotated[int, typer.Option(min=39, metavar="N", help="Permutations.")] = 999,
    block: Annotated[
        int, typer.Option(min=1, metavar="BASES", help="Length of the blocks that intervals are resampled by.")
    ] = 50_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of permutations and resamples.")] = 0,
    window: WindowLength = None,
    margin: WindowMargin = None,
    batch: WindowBatch = None,
    device: DeviceName = None,
) -> None:
    """Compare boundaries at genes, motifs and other features with null models.

    The kinds of a GFF3 or GTF file are tss, start_codon, splice_donor, splice_acceptor, stop_codon and transcript_end.
    Both strands are averaged. The same seed gives the same results.
    """
    with optional_imports("ldarnet enrich"):
        import jinja2  # noqa: F401
        import logomaker  # noqa: F401
    from ldarnet.config.tokenizer import read_tokenizer
    from ldarnet.genomics.boundaries import BoundaryScorer, check_reads_bases, check_stages
    from ldarnet.genomics.enrichment.features import check_contigs
    from ldarnet.genomics.enrichment.landscape import read_landscape
    from ldarnet.genomics.enrichment.motifs import read_motifs
    from ldarnet.genomics.enrichment.nulls.base import NullContext
    from ldarnet.genomics.enrichment.report import write_report
    from ldarnet.genomics.enrichment.results import StudyResults
    from ldarnet.genomics.enrichment.robustness import random_windows, robustness_rows
    from ldarnet.genomics.enrichment.study import check_loci
    from ldarnet.genomics.progress import GenomeProgress
    from ldarnet.genomics.regions import select, selected_bases
    from ldarnet.io.files import make_folder

    if not annotation and motifs is None:
        raise UserError("no features; give --annotation FILE or --motifs FILE")
    annotations = _annotations(annotation or [])
    wanted = None if features is None else [name.strip() for name in features.split(",")]
    _check_kinds(annotations, wanted)
    matrices = read_motifs(motifs, motif or []) if motifs is not None else []
    encoding = None if bpe is None else read_tokenizer(bpe, "bpe")
    source = open_genome(genome, rename)
    for each in annotations:
        check_contigs(each, source)
    selection = select(source, region or ())
    network = load_network(model, False, device)
    check_reads_bases(network.config)
    grid = window_grid(model, window, margin)
    batch = batch or max(BATCH_BASES.get(network.device.type, BATCH_BASES["cpu"]) // grid.window, 1)
    backbone = getattr(network, "model", network)
    scorer = BoundaryScorer(backbone, "average", [stage])
    others = {}
    for name in other or []:
        loaded = load_network(Path(name), False, device)
        check_reads_bases(loaded.config)
        others[name] = getattr(loaded, "model", loaded)
        check_stages(others[name], [stage])
    make_folder(out)
    with GenomeProgress(selected_bases(selection)) as progress:
        landscape = read_landscape(source, selection, scorer, grid, batch, progress.advance)
        kinds = _loci(annotations, wanted, matrices, landscape, motif_p, (radius, flank, max_loci, seed))
        kinds, small = check_loci(kinds, MIN_LOCI, ", ".join(annotation or []) or str(motifs))
        context = NullContext(landscape, scorer, grid.window, batch, permutations, shuffled_loci, block, seed)
        facts = {
            "model": str(model),
            "genome": str(genome),
            "bases": f"{selected_bases(selection):,}",
            "stage": str(stage),
            "window of a position": f"{radius} bases on both sides",
            "permutations": f"{permutations:,}",
            "block": f"{block:,} bases",
            "seed": str(seed),
        }
        notes = [f"{loci.name}: not compared, because only {len(loci)} loci are in the regions" for loci in small]
        notes += ["For more hits of motifs, choose a larger --motif-p."] if matrices and small else []
        progress.info("robustness")
        ids = random_windows(landscape, grid.window, windows, context.rng("windows"))
        notes += [] if len(ids) == windows else [f"robustness: only {len(ids)} windows without unknown bases"]
        robustness = robustness_rows(backbone, others, ids, stage, seed, batch) if len(ids) else []
        transcripts = [transcript for each in annotations for transcript in each.transcripts]

        def advance(null: str) -> None:
            progress.info(f"null model: {null}")

        results = StudyResults.compute(context, kinds, transcripts, matrices, encoding, robustness, flank, advance)
        progress.info("report")
        files = results.write_tables(out) + write_report(out, results, facts, notes)
    print(f"wrote {out}: {', '.join(files)}")


def _annotations(arguments: list[str]) -> list[Annotation]:
    from ldarnet.genome.sources import parse_source
    from ldarnet.genomics.enrichment.features import load_annotation

    sources = [parse_source(argument) for argument in arguments]
    return [load_annotation(Path(source.location), source.species) for source in sources]


def _check_kinds(annotations: list[Annotation], wanted: list[str] | None) -> None:
    """Check that the kinds have different names, and that those asked for have features."""
    names = [kind for annotation in annotations for kind, places in annotation.places.items() if places]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"--annotation: two files have features {repeated!r}; name one of them with NAME=FILE")
    for name in wanted or []:
        if name not in names:
            raise UserError(
                f"--features {name!r}: no such features in {', '.join(str(each.path) for each in annotations)}; choose "
                f"from {', '.join(names)}"
            )


def _loci(
    annotations: list[Annotation],
    wanted: list[str] | None,
    motifs: list[Any],
    landscape: Landscape,
    motif_p: float,
    settings: tuple[int, int, int, int],
) -> list[Loci]:
    from ldarnet.genomics.enrichment.features import place_loci
    from ldarnet.genomics.enrichment.motifs import motif_hits

    radius, flank, maximum, seed = settings
    reach = max(radius, flank)
    places = {
        kind: found
        for annotation in annotations
        for kind, found in annotation.places.items()
        if (found and wanted is None) or kind in (wanted or ())
    }
    places |= {f"motif {each.name}": motif_hits(each, landscape, motif_p) for each in motifs}
    return [
        place_loci(kind, found, landscape, radius=radius, flank=reach, maximum=maximum, seed=seed)
        for kind, found in places.items()
    ]
