"""`ldarnet embed`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ldarnet.cli.arguments import ModelFolder, with_parent
from ldarnet.cli.regions import BedFile, DeviceName, RegionNames, RenameFile, WindowLength, WindowMargin, open_genome
from ldarnet.cli.tracks import BATCH_BASES, load_network, window_grid
from ldarnet.errors import UserError

if TYPE_CHECKING:
    from ldarnet.genomics.embedding_inputs import Source


def embed(
    model: ModelFolder,
    sequences: Annotated[
        Path,
        typer.Argument(
            metavar="SEQUENCES", help="FASTA or .2bit file; or .csv, .tsv or .parquet file with a column 'sequence'."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write: .parquet, or .npy with a table of rows.")],
    level: Annotated[
        Literal["sequence", "chunk", "base"], typer.Option(help="One embedding per sequence or region, chunk or base.")
    ] = "sequence",
    layer: Annotated[
        int, typer.Option(metavar="N", help="Index in hidden_states: 0 for the embeddings, -1 for the last layer.")
    ] = -1,
    stage: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="For --level chunk: stage of the chunks. Default: 0.")
    ] = None,
    strands: Annotated[
        Literal["average", "forward"], typer.Option(help="Average over both strands, or the forward strand alone.")
    ] = "average",
    region: RegionNames = None,
    bed: BedFile = None,
    rename: RenameFile = None,
    window: WindowLength = None,
    margin: WindowMargin = None,
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="BASES", help="Bases per forward pass. Default: by device.")
    ] = None,
    device: DeviceName = None,
) -> None:
    """Write embeddings of sequences, or of regions of a genome, to a Parquet or npy file.

    Longer sequences are read in overlapping windows. Embeddings of regions depend on the bases around them.
    """
    from ldarnet.console import format_count, format_duration, format_si
    from ldarnet.genomics import pooling
    from ldarnet.genomics.embedding_files import check_output, embedding_file, rows_path
    from ldarnet.genomics.embeddings import Embedder
    from ldarnet.genomics.progress import GenomeProgress
    from ldarnet.version import __version__

    check_output(out)
    if stage is not None and level != "chunk":
        raise UserError("--stage: only for --level chunk; use --layer to choose the stage of the hidden states")
    network = load_network(model, False, device)
    if level == "chunk":
        from ldarnet.genomics.boundaries import check_stages

        check_stages(network)
    embedder = Embedder(network, layer, strands, stage or 0)
    grid = window_grid(model, window, margin)
    source = _source(sequences, region, bed, rename)
    if level == "base":
        size = source.bases * embedder.width * 4
        print(f"{source.bases:,} bases with {embedder.width} values each: {format_si(size, 'B')}", file=sys.stderr)
    settings = {
        "version": __version__,
        "model": str(model),
        "level": level,
        "layer": embedder.layer,
        "stage": stage or 0,
        "strands": strands,
        "window": grid.window,
        "margin": grid.margin,
    }
    strand = "." if strands == "average" else "+"
    with (
        GenomeProgress(source.bases) as progress,
        embedding_file(with_parent(out), level, source.regions, embedder.width, strand, settings) as file,
    ):
        pooling.embed(
            source,
            embedder,
            grid,
            file,
            level,
            batch_bases=batch or BATCH_BASES.get(network.device.type, BATCH_BASES["cpu"]),
            advance=lambda contig, bases: progress.advance(contig, bases, False),
        )
    table = f" and {rows_path(out)}" if out.suffix == ".npy" else ""
    print(f"wrote {out}{table}: {format_count(file.rows, 'embedding')} with {embedder.width} values each")
    print(
        f"{progress.computed:,} bases in {format_duration(progress.seconds)}, {progress.speed}; windows of "
        f"{grid.window:,} bases with margins of {grid.margin:,}"
    )


def _source(sequences: Path, region: list[str] | None, bed: Path | None, rename: Path | None) -> Source:
    from ldarnet.console import busy
    from ldarnet.genomics.embedding_inputs import genome_source, sequence_source

    if region or bed or rename:
        return genome_source(open_genome(sequences, rename), region or (), bed)
    with busy("reading sequences"):
        return sequence_source(sequences)
