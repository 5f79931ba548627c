"""`ldarnet report`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ldarnet.cli.arguments import with_parent
from ldarnet.console import percent_bar
from ldarnet.errors import UserError


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder of pretraining, which may still run, or of fine-tuning.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML file to write. Default: report.html in the run folder.")
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(min=5, metavar="SECONDS", help="Rewrite the report at this interval until stopped."),
    ] = None,
    curve: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="Another fine-tuning run on the same task with another data.limit; adds a learning curve. Repeatable.",
        ),
    ] = None,
) -> None:
    """Write an HTML report of a run as a single file.

    Pretraining: curves, boundaries, router health, configuration and versions. Fine-tuning: scores with intervals,
    training curves, learning curve, confusion matrices and ROC curves.
    """
    from ldarnet.io.run_files import METRICS, REPORT
    from ldarnet.report.page import write_report
    from ldarnet.report.run_record import is_finetuning_run

    page, metrics = with_parent(out) if out else run / REPORT, run / METRICS
    if is_finetuning_run(run):
        from ldarnet.finetuning.report import write_finetuning_report

        if every is not None:
            raise UserError("--every: not supported for fine-tuning runs; write the report when folds are finished")
        folds = write_finetuning_report(run, page, curve or ())
        print(f"wrote HTML report of {run} (finished folds: {folds}): {page}")
        return
    if curve:
        raise UserError(f"{run}: not a fine-tuning run, but --curve is set; remove --curve or pass another folder")
    while True:
        with percent_bar("reading", metrics.stat().st_size if metrics.is_file() else 0) as advance:
            record = write_report(run, page, refresh=every, advance=advance)
        step, warnings = record.last["step"], len(record.last.get("warnings", {}))
        print(f"wrote HTML report of {run} up to step {step:,} (active warnings: {warnings}): {page}")
        if every is None:
            return
        time.sleep(every)
