"""`ldarnet settings`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Program(StrEnum):
    """Commands that read a configuration file."""

    PRETRAIN = "pretrain"
    FINETUNE = "finetune"
    SWEEP = "sweep"
    ABLATE = "ablate"


def settings(
    program: Annotated[
        Program,
        typer.Argument(metavar="COMMAND", help="Command whose settings to list: pretrain, finetune, sweep or ablate."),
    ],
) -> None:
    """List the keys of a configuration file with defaults, allowed values and descriptions."""
    from ldarnet.config import FinetuneConfig, RunConfig
    from ldarnet.config.ablation import AblationConfig
    from ldarnet.config.listing import list_settings
    from ldarnet.config.sweep import SweepConfig

    schemas = {
        Program.PRETRAIN: RunConfig,
        Program.FINETUNE: FinetuneConfig,
        Program.SWEEP: SweepConfig,
        Program.ABLATE: AblationConfig,
    }
    print("\n".join(list_settings(schemas[program])))
