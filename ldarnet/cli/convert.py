"""`ldarnet convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ldarnet.cli.arguments import import_models, with_parent
from ldarnet.console import busy
from ldarnet.errors import UserError


def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Published checkpoint (.pt) or model folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder, or .pt file; must not exist.")],
) -> None:
    """Convert a published .pt checkpoint to a Hugging Face folder, or a model folder to such a .pt checkpoint."""
    if (source.suffix == ".pt") == (out.suffix == ".pt"):
        raise UserError(f"{source} to {out}: one of the two must be a .pt checkpoint, and the other a model folder")
    models = import_models()
    if source.suffix != ".pt" and out.exists():
        raise UserError(f"{out}: exists already; remove it or choose another name")
    with busy("converting"):
        if source.suffix == ".pt":
            models.write_model(models.load_published_checkpoint(source), with_parent(out))
        else:
            models.save_published_checkpoint(models.load_model(source, models.LDARNetLanguageModel), with_parent(out))
    print(f"wrote {out}")
