"""The `ldarnet` command: what is installed, and models in and out.

Anything that a user can mend is printed as one line, ``error: ...``, and ends the program with status 1. Each command
imports what it needs, so that none waits for what another one does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Annotated, TextIO

import typer

from ldarnet.errors import UserError
from ldarnet.io.files import atomic_path, make_folder
from ldarnet.version import __version__

app = typer.Typer(
    help="DNA language models that learn their own tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelFolder = Annotated[Path, typer.Argument(help="A model folder, a checkpoint, or a run (its best checkpoint).")]


def main() -> None:
    """Run the command line."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output, `head` for one, had enough. Leave nothing for Python to flush at exit.
        sys.stdout = None  # type: ignore[assignment]
        sys.exit(0)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ldarnet {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """DNA language models that learn their own tokens."""


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what is installed, what each operation would use here, and how to install what is missing."""
    from ldarnet.doctor import examine, render

    report = examine()
    print(json.dumps(report, indent=2) if as_json else render(report))


@app.command()
def export(
    checkpoint: ModelFolder,
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
) -> None:
    """Write a checkpoint's model and tokenizer as a Hugging Face folder."""
    models = _models()
    models.write_model(models.load_model(checkpoint, models.LDARNetForMaskedLM), _with_parent(out))
    print(f"{out}: load it with AutoModelForMaskedLM.from_pretrained after `import ldarnet.model`")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A published checkpoint (.pt), or a model folder.")],
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet, or a file ending in .pt.")],
) -> None:
    """Turn the authors' checkpoint file into a Hugging Face folder, or the other way round."""
    if (source.suffix == ".pt") == (out.suffix == ".pt"):
        raise UserError(
            f"{source} to {out}: one of the two must be a published checkpoint, a file ending in .pt, and the other a "
            "model folder"
        )
    models = _models()
    if source.suffix == ".pt":
        models.write_model(models.load_published_checkpoint(source), _with_parent(out))
    elif out.exists():
        raise UserError(f"{out} exists already; remove it or name another file")
    else:
        models.save_published_checkpoint(models.load_model(source, models.LDARNetForMaskedLM), _with_parent(out))
    print(f"wrote {out}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder, of a run that is finished or under way.")],
    out: Annotated[Path | None, typer.Option(help="The page to write; report.html in the run folder.")] = None,
    every: Annotated[int | None, typer.Option(min=5, help="Draw it again and again, so many seconds apart.")] = None,
) -> None:
    """Draw a run on one HTML page: curves, boundaries, router health, configuration and versions."""
    from ldarnet.io.run_files import REPORT
    from ldarnet.report.page import write_report

    page = _with_parent(out) if out else run / REPORT
    while True:
        drawn = write_report(run, page, refresh=every)
        print(f"{page}: step {drawn.last['step']:,}, {len(drawn.last.get('warnings', {}))} warnings in force")
        if every is None:
            return
        time.sleep(every)


class Program(StrEnum):
    """A program of `launch` that a configuration is for."""

    PRETRAIN = "pretrain"
    FINETUNE = "finetune"
    SWEEP = "sweep"


@app.command()
def settings(program: Annotated[Program, typer.Argument(help="Whose configuration.")]) -> None:
    """List every key that a configuration may have, with its default, its range and its meaning."""
    from ldarnet.config import FinetuneConfig, RunConfig
    from ldarnet.config.listing import list_settings
    from ldarnet.config.sweep import SweepConfig

    schemas = {Program.PRETRAIN: RunConfig, Program.FINETUNE: FinetuneConfig, Program.SWEEP: SweepConfig}
    print("\n".join(list_settings(schemas[program])))


@app.command()
def tasks(suite: Annotated[str | None, typer.Argument(help="nt, gb or gue; all by default.")] = None) -> None:
    """List the published tasks to fine-tune on: rows, bases, classes, metric, published settings, known leakage."""
    from ldarnet.tasks.listing import list_tasks

    print("\n".join(list_tasks(suite)))


@app.command()
def compare(
    arms: Annotated[
        list[str], typer.Argument(metavar="NAME=FOLDER ...", help="What to call an arm, and its fine-tuning runs.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for results.md, results.csv and results.png.")],
) -> None:
    """Compare fine-tuned models with each other and with published numbers: a report, a table and a picture."""
    from ldarnet.comparison.compare import find_results, write_comparison

    folders: dict[str, Path] = {}
    for arm in arms:
        name, separator, folder = arm.partition("=")
        if not (name and separator and folder) or name in folders:
            raise UserError(f"{arm}: give each arm once, as NAME=FOLDER")
        folders[name] = Path(folder)
    write_comparison({name: find_results(folder) for name, folder in folders.items()}, out)
    print(f"wrote {out / 'results.md'}, {out / 'results.csv'} and {out / 'results.png'}")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A fine-tuned classifier: its folder, or the fine-tuning run.")],
    fasta: Annotated[Path, typer.Argument(help="A FASTA file, plain or compressed.")],
    out: Annotated[Path | None, typer.Option(help="The table to write; printed where there is none.")] = None,
    max_length: Annotated[
        int | None, typer.Option(min=8, help="Crop longer sequences to so many bases of their centre.")
    ] = None,
    strands: Annotated[
        int | None, typer.Option(min=1, max=2, help="2: mean of both strands. As in fine-tuning if not given.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Sequences computed at once.")] = 64,
) -> None:
    """Classify sequences: a table of name, predicted class and the probability of each class."""
    from ldarnet.finetuning.predict import Classifier
    from ldarnet.genome.fasta import read_contigs

    _models()
    classifier = Classifier(model, max_length=max_length, strands=strands, batch=batch)
    with nullcontext(sys.stdout) if out is None else _written(out) as file:
        classifier.write(read_contigs(fasta), file, fasta)
    print(classifier.note(), file=sys.stderr)


@app.command()
def tokenize(
    model: ModelFolder,
    fasta: Annotated[Path, typer.Argument(help="A FASTA file, plain or compressed.")],
    stage: Annotated[int, typer.Option(min=0, help="Which level of chunks: 0 are the finest, cut from bases.")] = 0,
    window: Annotated[int, typer.Option(min=1, help="Bases seen at once; each window starts a chunk.")] = 4096,
) -> None:
    """Print the chunks that a model cuts sequences into: name, start, end (from 0, end excluded), bases."""
    from ldarnet.genome.fasta import read_contigs
    from ldarnet.interpret.boundaries import chunks

    network = _models().load_backbone(model)
    for name, sequence in read_contigs(fasta):
        for start, end in chunks(network, sequence, stage=stage, window=window):
            print(name, start, end, sequence[start:end], sep="\t")


def _models() -> ModuleType:
    """The room of the model, after which transformers draws no progress bars about weights."""
    from transformers.utils.logging import disable_progress_bar

    from ldarnet import model

    disable_progress_bar()
    return model


def _with_parent(out: Path) -> Path:
    """Make the folder that ``out`` is to stand in."""
    make_folder(out.parent)
    return out


@contextmanager
def _written(out: Path) -> Iterator[TextIO]:
    """A text file that is complete or absent."""
    with atomic_path(_with_parent(out)) as partial, partial.open("w", encoding="utf-8") as file:
        yield file
