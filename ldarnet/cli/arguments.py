"""Arguments and helpers shared by several commands."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from ldarnet.io.files import make_folder
from ldarnet.threads import set_threads

ModelFolder = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Model folder, checkpoint, or run folder (for its best checkpoint).")
]
FastaFile = Annotated[Path, typer.Argument(metavar="FASTA", help="FASTA file, plain or compressed.")]


def import_models() -> ModuleType:
    """Import the model package, set the number of CPU threads, and keep transformers and DeepSpeed quiet."""
    from transformers.utils.logging import disable_progress_bar

    from ldarnet import model
    from ldarnet.runtime.deepspeed_internals import set_accelerator

    set_accelerator()
    if (chosen := set_threads()).busy:
        print(f"using {chosen}", file=sys.stderr)
    disable_progress_bar()
    return model


def with_parent(out: Path) -> Path:
    """Create the parent folder of `out`; return `out`."""
    make_folder(out.parent)
    return out
