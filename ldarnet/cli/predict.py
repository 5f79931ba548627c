"""`ldarnet predict`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, TextIO

import typer

from ldarnet.cli.arguments import FastaFile, import_models, with_parent
from ldarnet.io.files import atomic_path


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder of a fine-tuned classifier, or of its fine-tuning run.")
    ],
    fasta: FastaFile,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TSV file to write. Default: standard output.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=8, metavar="BASES", help="Center-crop longer sequences. Default: as in fine-tuning."),
    ] = None,
    strands: Annotated[
        int | None,
        typer.Option(min=1, max=2, metavar="N", help="2: average over both strands. Default: as in fine-tuning."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Sequences per batch.")] = 64,
) -> None:
    """Classify sequences; write their names, predicted classes and class probabilities as TSV."""
    from ldarnet.finetuning.predict import Classifier
    from ldarnet.genome.fasta import read_contigs

    import_models()
    classifier = Classifier(model, max_length=max_length, strands=strands, batch=batch)
    with nullcontext(sys.stdout) if out is None else _open_output(out) as file:
        classifier.write(read_contigs(fasta), file, fasta)
    print(classifier.note() if out is None else f"wrote {out}: {classifier.note()}", file=sys.stderr)


@contextmanager
def _open_output(out: Path) -> Iterator[TextIO]:
    """Open a text file for writing; it appears under its final name only if the block succeeds."""
    with atomic_path(with_parent(out)) as partial, partial.open("w", encoding="utf-8") as file:
        yield file
