"""Arguments of commands that read regions of a genome."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ldarnet.genomics.genome import Genome

GenomeFile = Annotated[Path, typer.Argument(metavar="GENOME", help="FASTA file, plain or compressed, or .2bit file.")]
RegionNames = Annotated[
    list[str] | None,
    typer.Option(metavar="REGION", help="Contig, or contig:start-end with positions from 1; may be repeated."),
]
BedFile = Annotated[Path | None, typer.Option(metavar="FILE", help="BED file of regions.")]
RenameFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Table of contig names: name in the genome file, tab, name to use instead."),
]
WindowLength = Annotated[
    int | None, typer.Option(metavar="BASES", help="Window length. Default: the length in pretraining.")
]
WindowMargin = Annotated[
    int | None, typer.Option(metavar="BASES", help="Overlap on both sides of a window. Default: an eighth of it.")
]
WindowBatch = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Windows per forward pass. Default: by length and device.")
]
DeviceName = Annotated[
    str | None, typer.Option(metavar="DEVICE", help="Device, such as cpu or cuda:1. Default: cuda if available.")
]


def open_genome(path: Path, rename: Path | None) -> Genome:
    """Read the contig names and lengths of a genome, and rename its contigs."""
    from ldarnet.console import busy
    from ldarnet.genome.contig_names import read_contig_names
    from ldarnet.genomics.genome import Genome

    columns = "a contig name of the genome file, a tab, and the name to use instead"
    names = None if rename is None else read_contig_names(rename, columns)
    with busy("reading contigs"):
        return Genome(path, names)
