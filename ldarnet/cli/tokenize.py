"""`ldarnet tokenize`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ldarnet.cli.arguments import FastaFile, ModelFolder, import_models
from ldarnet.cli.sequences import OutFile, base_progress, open_output


def tokenize(
    model: ModelFolder,
    fasta: FastaFile,
    out: OutFile = None,
    stage: Annotated[int, typer.Option(min=0, metavar="N", help="Router stage; 0 has the finest chunks.")] = 0,
    window: Annotated[
        int, typer.Option(min=1, metavar="BASES", help="Window length; each window starts a new chunk or token.")
    ] = 4096,
) -> None:
    """Write the chunks of sequences as TSV: sequence name, start, end (0-based, half-open) and bases.

    If the model reads tokens of several bases, such as k-mers, write these tokens.
    """
    from ldarnet.console import format_count
    from ldarnet.genome.fasta import read_contigs
    from ldarnet.interpret.boundaries import chunks
    from ldarnet.io.tsv import UniqueNames, repeated_names, tsv_writer

    network = import_models().load_backbone(model)
    unit = "chunk" if network.config.tokenizer is None else "token"
    names, sequences, found, repeated = UniqueNames(), 0, 0, 0
    with open_output(out) as file, base_progress("tokenizing", fasta, out) as advance:
        write_row = tsv_writer(file)
        for given, sequence in read_contigs(fasta):
            sequences += 1
            name = names.add(given, f"sequence:{sequences}")
            repeated += names.was_repeated
            for start, end in chunks(network, sequence, stage=stage, window=window):
                write_row((name, start, end, sequence[start:end]))
                found += 1
                advance(end - start)
    notes = repeated_names(repeated)
    if out is not None:
        notes = [f"wrote {out}: {format_count(sequences, 'sequence')}", format_count(found, unit), *notes]
    if notes:
        print("; ".join(notes), file=sys.stderr)
