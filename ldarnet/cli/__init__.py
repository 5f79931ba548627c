"""The `ldarnet` command: a table of subcommands. The module of a subcommand is imported only when it is used."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ldarnet.io.early_stop import early_stops
from ldarnet.program import build_command, exit_status, invoke
from ldarnet.version import __version__

COMMANDS = {
    "fetch": ("sharding.fetch:main", "Download published genomes."),
    "shard": ("sharding.build:main", "Build a shard set from FASTA or 2bit files."),
    "verify": (
        "ldarnet.cli.verify:verify",
        "Verify the hashes of a shard set, run, checkpoint or model.",
    ),
    "stats": ("sharding.stats:main", "Summarize a shard set: composition, lengths, splits."),
    "unshard": ("sharding.export:main", "Write the sequences of a shard set as FASTA."),
    "train-tokenizer": (
        "ldarnet.cli.train_tokenizer:train_tokenizer",
        "Learn a byte-pair encoding from a shard set.",
    ),
    "pretrain": ("ldarnet.cli.pretrain:pretrain", "Pretrain a model on a shard set."),
    "finetune": ("ldarnet.cli.finetune:finetune", "Fine-tune a model on labeled sequences or bases."),
    "sweep": ("ldarnet.cli.sweep:sweep", "Search fine-tuning settings over tasks and folds."),
    "ablate": ("ldarnet.cli.ablate:ablate", "Compare models at equal training cost."),
    "compare": ("ldarnet.cli.compare:compare", "Compare fine-tuning runs and published results."),
    "predict": ("ldarnet.cli.predict:predict", "Predict classes or values with a fine-tuned model."),
    "tokenize": ("ldarnet.cli.tokenize:tokenize", "Print the chunks or tokens that a model cuts sequences into."),
    "tracks": ("ldarnet.cli.tracks:tracks", "Write boundary and likelihood tracks for genome browsers."),
    "enrich": ("ldarnet.cli.enrich:enrich", "Compare boundaries at genes and motifs with null models."),
    "browse": ("ldarnet.cli.browse:browse", "Browse a genome with tracks on a local web page."),
    "score-variants": (
        "ldarnet.cli.score_variants:score_variants",
        "Score the variants of a VCF file or table.",
    ),
    "evaluate-variants": (
        "ldarnet.cli.evaluate_variants:evaluate_variants",
        "Evaluate variant scores on labeled variants.",
    ),
    "variant-sets": ("ldarnet.cli.variant_sets:variant_sets", "List the published sets of labeled variants."),
    "embed": ("ldarnet.cli.embed:embed", "Write embeddings of sequences, chunks or bases."),
    "export": ("ldarnet.cli.export:export", "Write a checkpoint as a Hugging Face folder."),
    "convert": ("ldarnet.cli.convert:convert", "Convert between published .pt checkpoints and model folders."),
    "report": ("ldarnet.cli.report:report", "Write an HTML report of a training run."),
    "settings": ("ldarnet.cli.settings:settings", "List the keys of a configuration file."),
    "tasks": ("ldarnet.cli.tasks:tasks", "List the fine-tuning tasks."),
    "doctor": ("ldarnet.cli.doctor:doctor", "Report installed packages, devices and kernels."),
}
"""Subcommand -> `module:function`, and its summary in `ldarnet --help`."""


class Group(TyperGroup):
    """Command group for `COMMANDS`. Its help and completion only read the table, and import no subcommand."""

    def list_commands(self, ctx: Any) -> list[str]:
        """List the names of all commands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and return a command; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name][0].partition(":")
        command = build_command(getattr(import_module(module), function))
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the section of `--help` that lists the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Complete a command or option name."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        from typer.core import CompletionItem

        return [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]


app = typer.Typer(cls=Group, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"ldarnet {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """DNA language models with learned tokenization.

    Run `ldarnet COMMAND --help` for the options of a command.
    """


def main() -> None:
    """Run the command line and exit."""
    if "_LDARNET_COMPLETE" in os.environ:
        app(prog_name="ldarnet")  # prints completions for the shell and exits
    arguments = sys.argv[1:] or ["--help"]
    name = " ".join(["ldarnet", *(argument for argument in arguments[:1] if argument in COMMANDS)])
    with early_stops() if name.endswith(("pretrain", "finetune")) else nullcontext():
        sys.exit(exit_status(lambda: invoke(typer.main.get_command(app), arguments, name="ldarnet"), name=name))
