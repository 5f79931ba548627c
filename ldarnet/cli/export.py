"""`ldarnet export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ldarnet.cli.arguments import ModelFolder, import_models, with_parent
from ldarnet.console import busy
from ldarnet.io import run_files


def export(
    checkpoint: ModelFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder; must not exist.")],
) -> None:
    """Write the model and tokenizer of a checkpoint as a Hugging Face folder."""
    models = import_models()
    with busy("exporting"):
        model = models.load_model(checkpoint, models.LDARNetLanguageModel)
        models.write_model(model, with_parent(out))
    kind = "AutoModelForCausalLM" if model.causal else "AutoModelForMaskedLM"
    print(f"exported {out}; after `import ldarnet.model`, load it with {kind}.from_pretrained")
    print(f"{run_files.MODEL_CARD} in this folder describes the model, and how to load it without this package")
