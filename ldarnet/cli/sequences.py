"""TSV output and progress bar of commands that process the sequences of a FASTA file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer

from ldarnet.cli.arguments import with_parent
from ldarnet.console import make_console, percent_bar
from ldarnet.io.files import atomic_path

OutFile = Annotated[Path | None, typer.Option(metavar="FILE", help="TSV file to write. Default: standard output.")]
PROGRESS_SECONDS = 2.0
"""Seconds after which a progress bar appears."""


@contextmanager
def open_output(out: Path | None) -> Iterator[TextIO]:
    """Open a text file for writing. The file appears under its final name only if the block succeeds.

    Args:
        out: path of the file; None for standard output.

    Raises:
        NotWritableError: the disk is full, the file size limit is exceeded, or there is no permission to write.
    """
    if out is None:
        yield sys.stdout
        sys.stdout.flush()  # before the summary on stderr
        return
    with atomic_path(with_parent(out)) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def base_progress(
    description: str, fasta: Path, out: Path | None, bases: int | None = None
) -> Iterator[Callable[[int], None]]:
    """Show progress through the bases of a FASTA file; yield a function that advances the bar by a number of bases.

    The bar is shown if stderr is a terminal, unless the TSV output is printed on a terminal, too. If the total number
    of bases is not given, the file is read once to count them before the bar is shown.

    Raises:
        UserError: the FASTA file is damaged or malformed; raised only if the bases are counted.
    """
    from ldarnet.genome.fasta import read_fasta

    if not make_console(stderr=True).is_terminal or (out is None and sys.stdout.isatty()):
        yield lambda bases: None
        return
    if bases is None:
        bases = sum(len(item) for item in read_fasta(fasta) if isinstance(item, bytes))
    with percent_bar(description, bases, delay=PROGRESS_SECONDS) as advance:
        yield advance
