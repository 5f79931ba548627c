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


def settings(
    program: Annotated[
        Program, typer.Argument(metavar="COMMAND", help="Command whose settings to list: pretrain, finetune or sweep.")
    ],
) -> None:
    """List the keys of a configuration file with defaults, allowed values and descriptions."""
    from ldarnet.config import FinetuneConfig, RunConfig
    from ldarnet.config.listing import list_settings
    from ldarnet.config.sweep import SweepConfig

    schemas = {Program.PRETRAIN: RunConfig, Program.FINETUNE: FinetuneConfig, Program.SWEEP: SweepConfig}
    print("\n".join(list_settings(schemas[program])))
