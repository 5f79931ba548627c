"""Arguments and helpers shared by `ldarnet pretrain`, `finetune` and `sweep`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ldarnet.errors import TransientError, UserError
from ldarnet.io.early_stop import early_stops
from ldarnet.packaged import packaged_configs

if TYPE_CHECKING:
    from ldarnet.config import Config

C = TypeVar("C", bound="Config")


def config_option(command: str, example: str) -> Any:
    """Create the option `--config`; shells complete the names of packaged configurations.

    Args:
        command: command that gets the option; its packaged configurations are in a folder of the same name.
        example: packaged configuration shown in the help.
    """

    def complete(incomplete: str) -> list[str]:
        names = [path.stem for path in packaged_configs().values() if path.parent.name == command]
        return [name for name in names if name.startswith(incomplete)]

    text = f"YAML file, or name of a packaged configuration such as {example}."
    return typer.Option("--config", metavar="FILE|NAME", help=text, autocompletion=complete)


Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="key=value", help="Overrides of the configuration; `ldarnet settings` lists all keys."),
]
Gpus = Annotated[int | None, typer.Option(min=1, metavar="N", help="Start N ranks on the GPUs of this machine.")]
Ranks = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Start N ranks on GPUs, or on CPUs if there are no GPUs.")
]
LocalRank = Annotated[int | None, typer.Option("--local_rank", hidden=True)]


def run_ranks(
    module: str,
    schema: type[C],
    work: Callable[[C], int],
    config: str,
    overrides: list[str] | None,
    gpus: int | None,
    ranks: int | None,
) -> int:
    """Train in this process, or in newly started ranks if `gpus` or `ranks` is given; return the exit status.

    Args:
        module: module that the ranks run.
        schema: configuration class.
        work: function that trains with a configuration and returns the exit status.
        config: path or packaged name of the configuration.
        overrides: configuration overrides, as ``key=value``.
        gpus: number of ranks to start on GPUs; None without ``--gpus``.
        ranks: number of ranks to start on GPUs, or on CPUs if there are no GPUs; None without ``--ranks``.

    Raises:
        UserError: the configuration is wrong, or this machine has too few GPUs.
    """
    if gpus is None and ranks is None:
        return run_configured(schema, work, config, overrides)
    from ldarnet.cli.launcher import launch

    load(schema, config, overrides)  # report a wrong configuration before ranks start
    return launch(module, ["--config", config, *(overrides or [])], gpus=gpus, ranks=ranks)


def run_configured(schema: type[C], work: Callable[[C], int], config: str, overrides: list[str] | None) -> int:
    """Load the configuration and train in this process; return the exit status."""
    try:
        with early_stops():
            return work(load(schema, config, overrides))
    except BrokenPipeError:
        raise TransientError("stdout was closed before training ended; redirect it to a file") from None


def load(schema: type[C], config: str, overrides: list[str] | None) -> C:
    """Load a configuration file with overrides.

    Raises:
        UserError: `load_config` fails, or a value is a URL that contains credentials. The first rank of each node
            prints the error, because the file may be wrong on one node only.
    """
    from ldarnet.config import load_config

    try:
        loaded = load_config(config, overrides, schema=schema)
        loaded.refuse_credentials()
        return loaded
    except UserError as error:
        error.local = os.environ.get("LOCAL_RANK", "0") == "0"
        raise
