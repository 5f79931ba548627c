"""`ldarnet tokenize`."""

from __future__ import annotations

from typing import Annotated

import typer

from ldarnet.cli.arguments import FastaFile, ModelFolder, import_models


def tokenize(
    model: ModelFolder,
    fasta: FastaFile,
    stage: Annotated[int, typer.Option(min=0, metavar="N", help="Router stage; 0 has the finest chunks.")] = 0,
    window: Annotated[
        int, typer.Option(min=1, metavar="BASES", help="Window length; each window starts a new chunk.")
    ] = 4096,
) -> None:
    """Print the chunks of sequences as TSV: sequence name, start, end (0-based, half-open) and bases."""
    from ldarnet.genome.fasta import read_contigs
    from ldarnet.interpret.boundaries import chunks

    network = import_models().load_backbone(model)
    for name, sequence in read_contigs(fasta):
        for start, end in chunks(network, sequence, stage=stage, window=window):
            print(name, start, end, sequence[start:end], sep="\t")
