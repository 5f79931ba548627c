"""`ldarnet tracks`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ldarnet.cli.arguments import ModelFolder, import_models
from ldarnet.cli.regions import (
    BedFile,
    DeviceName,
    GenomeFile,
    RegionNames,
    RenameFile,
    WindowBatch,
    WindowLength,
    WindowMargin,
    open_genome,
)
from ldarnet.errors import UserError
from ldarnet.extras import optional_imports

if TYPE_CHECKING:
    from ldarnet.genomics.scoring import WindowScorer

BATCH_BASES = {"cpu": 2**14, "cuda": 2**19}
"""Default number of bases per forward pass, by type of device."""


def tracks(
    model: ModelFolder,
    genome: GenomeFile,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write.")],
    region: RegionNames = None,
    bed: BedFile = None,
    rename: RenameFile = None,
    strands: Annotated[
        Literal["average", "both", "forward"],
        typer.Option(help="Average over both strands, one track per strand, or the forward strand alone."),
    ] = "average",
    likelihood: Annotated[
        bool, typer.Option("--likelihood", help="Also write the masked log-likelihood and the entropy of each base.")
    ] = False,
    masked_every: Annotated[
        int,
        typer.Option(min=2, metavar="N", help="For --likelihood: mask every N-th base at a time, in N passes."),
    ] = 8,
    format: Annotated[
        str, typer.Option(metavar="LIST", help="Formats: bigwig or bedgraph for values, bed or bigbed for chunks.")
    ] = "bigwig,bed",
    window: WindowLength = None,
    margin: WindowMargin = None,
    batch: WindowBatch = None,
    device: DeviceName = None,
) -> None:
    """Write boundary probabilities, chunks and likelihoods along a genome, for genome browsers.

    Windows overlap and are stitched, so values do not depend on where a region starts. To resume an interrupted run,
    run the same command again.
    """
    from ldarnet.console import format_duration
    from ldarnet.genomics.progress import GenomeProgress
    from ldarnet.genomics.regions import select, selected_bases
    from ldarnet.genomics.tracks import CHUNK_FORMATS, INDEXED, TrackRecord, Tracks, model_hash, parse_formats
    from ldarnet.version import __version__

    formats = parse_formats(format)
    if likelihood and not {*formats} - {*CHUNK_FORMATS}:
        raise UserError(f"--likelihood: --format {format} has no format for values; add bigwig or bedgraph")
    if {*formats} & {*INDEXED}:
        with optional_imports("ldarnet tracks"):
            import pybigtools  # noqa: F401
    network = load_network(model, likelihood, device)
    scorer = _scorer(network, strands, masked_every if likelihood else None)
    grid = window_grid(model, window, margin)
    place = network.device.type
    source = open_genome(genome, rename)
    selection = select(source, region or (), bed)
    total = selected_bases(selection)
    job = Tracks(
        source,
        selection,
        scorer,
        grid,
        batch=batch or max(BATCH_BASES.get(place, BATCH_BASES["cpu"]) // grid.window, 1),
        formats=formats,
        out=out,
        key=f"{model_hash(network)} {strands} {masked_every if likelihood else None} {__version__}",
    )

    def record(key: str, files: list[str]) -> TrackRecord:
        return TrackRecord(
            key=key,
            ldarnet=__version__,
            model=str(model),
            genome=str(genome),
            window=grid.window,
            margin=grid.margin,
            strands=strands,
            masked_every=masked_every if likelihood else None,
            bases=total,
            files=files,
        )

    with GenomeProgress(total) as progress:
        written = job.write(record, progress.advance, progress.info)
    if not written:
        print(f"{out}: already finished: {', '.join(job.files)}")
        return
    print(f"wrote {out}: {', '.join(job.files)}")
    reused = total - progress.computed
    again = f"; {reused:,} reused from an interrupted run" if reused else ""
    print(
        f"{progress.computed:,} bases in {format_duration(progress.seconds)}, {progress.speed}{again}; windows of "
        f"{grid.window:,} bases with margins of {grid.margin:,}"
    )


def load_network(path: Path, likelihood: bool, device: str | None) -> Any:
    """Load a model with its head if likelihoods are requested, or a backbone, to a device."""
    models = import_models()
    import torch

    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    network: Any
    if not likelihood:
        network = models.load_backbone(path)
    elif path.suffix == ".pt":
        from ldarnet.model.published import load_published_checkpoint

        network = load_published_checkpoint(path)
    else:
        network = models.load_model(path, models.LDARNetForMaskedLM)
    try:
        return network.eval().to(torch.device(name))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--device {name}: not available ({reason}); use --device cpu") from None


def _scorer(network: Any, strands: Any, masked_every: int | None) -> WindowScorer:
    from ldarnet.genomics.boundaries import BoundaryScorer, check_reads_bases
    from ldarnet.genomics.likelihood import LikelihoodScorer
    from ldarnet.genomics.tracks import CombinedScorer

    check_reads_bases(network.config)
    scorers: list[WindowScorer] = []
    if network.config.num_stages > 1 or masked_every is None:
        scorers.append(BoundaryScorer(getattr(network, "model", network), strands))
    if masked_every is not None:
        scorers.append(LikelihoodScorer(network, strands, masked_every))
    return CombinedScorer(scorers)


def window_grid(model: Path, window: int | None, margin: int | None) -> Any:
    """Build the grid of windows; by default, of the length in pretraining."""
    from ldarnet.genomics.windows import UNKNOWN_WINDOW, WindowGrid
    from ldarnet.model.folder import window_length

    if window is None and (window := window_length(model)) is None:
        window = UNKNOWN_WINDOW
        print(f"{model}: length in pretraining unknown; using --window {window}", file=sys.stderr)
    return WindowGrid.of(window, margin)
