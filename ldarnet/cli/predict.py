"""`ldarnet predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ldarnet.cli.arguments import FastaFile, import_models
from ldarnet.cli.sequences import OutFile, base_progress, open_output


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder of a fine-tuned model, or of its fine-tuning run.")
    ],
    fasta: FastaFile,
    out: OutFile = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=8,
            metavar="BASES",
            help="Crop longer sequences to this many central bases. Default: as in fine-tuning.",
        ),
    ] = None,
    strands: Annotated[
        int | None,
        typer.Option(
            min=1, max=2, metavar="N", help="Strands to evaluate; 2 averages over both. Default: as in fine-tuning."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Sequences per batch.")] = 64,
) -> None:
    """Predict classes and their probabilities, or values; write one line per sequence as TSV."""
    from ldarnet.finetuning.predict import Classifier
    from ldarnet.genome.fasta import read_contigs

    import_models()
    classifier = Classifier(model, max_length=max_length, strands=strands, batch=batch)
    with open_output(out) as file, base_progress("predicting", fasta, out) as advance:
        classifier.write(read_contigs(fasta), file, fasta, advance)
    print(classifier.note() if out is None else f"wrote {out}: {classifier.note()}", file=sys.stderr)
