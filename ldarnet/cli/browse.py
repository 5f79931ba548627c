"""`ldarnet browse`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldarnet.cli.regions import DeviceName, GenomeFile, RenameFile, open_genome
from ldarnet.errors import UserError
from ldarnet.extras import optional_imports

if TYPE_CHECKING:
    from ldarnet.genomics.browser.predictions import BasePredictor


def browse(
    genome: GenomeFile,
    tracks: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Folder of ldarnet tracks; may be repeated, for several models."),
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="MODEL", help="Model that predicts the base you click and the sequence you paste; may be repeated."
        ),
    ] = None,
    annotation: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Genes: GFF3, GTF or BED file, plain or compressed.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(metavar="REGION", help="Region to show first: contig, or contig:start-end.")
    ] = None,
    rename: RenameFile = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port on this machine; 0 selects a free one.")
    ] = 8765,
    device: DeviceName = None,
) -> None:
    """Browse a genome with the tracks of models and an annotation, on a local web page.

    The page is served to this machine only, loads nothing from the network, and stops with Ctrl-C. Contig names of
    the annotation with and without chr are taken as the same.
    """
    from ldarnet.console import busy, format_count
    from ldarnet.genome.contig_names import read_contig_names
    from ldarnet.genomics.browser.annotation import GeneTrack
    from ldarnet.genomics.browser.sequence import SequenceStore
    from ldarnet.genomics.browser.server import SiteServer
    from ldarnet.genomics.browser.site import build_site, first_locus
    from ldarnet.genomics.regions import select

    folders = tracks or []
    models = [_predictor(path, device) for path in model or []]
    source = open_genome(genome, rename)
    genes = None
    if annotation is not None:
        names = None if rename is None else read_contig_names(rename, "two contig names, separated by a tab")
        with busy("reading annotation"):
            genes = GeneTrack(annotation, source.sizes, names)
        print(f"{annotation}: {format_count(genes.count, 'feature')}{_skipped(genes.skipped)}")
    if region is not None:
        select(source, [region])
    with busy("copying sequences"):
        store = SequenceStore(source)
    with optional_imports("ldarnet browse"):
        locus = region or first_locus(store, folders, genes)
        site = build_site(genome, store, folders, models, genes, locus)
    with SiteServer(site, port) as server:
        print(f"serving {server.url}  (Ctrl-C to stop)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


def _predictor(path: Path, device: str | None) -> BasePredictor:
    from ldarnet.cli.tracks import load_network
    from ldarnet.genomics.browser.predictions import BasePredictor
    from ldarnet.genomics.windows import UNKNOWN_WINDOW
    from ldarnet.model.folder import window_length
    from ldarnet.printable import printable

    network = load_network(path, likelihood=True, device=device)
    try:
        return BasePredictor(printable(path.name), network, window_length(path) or UNKNOWN_WINDOW)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _skipped(contigs: dict[str, int]) -> str:
    from ldarnet.console import format_count
    from ldarnet.printable import printable

    if not contigs:
        return ""
    listed = ", ".join(map(printable, list(contigs)[:3])) + (", ..." if len(contigs) > 3 else "")
    return f"; skipped {sum(contigs.values()):,} on {format_count(len(contigs), 'contig')} not in the genome ({listed})"
