"""`ldarnet report`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ldarnet.cli.arguments import with_parent
from ldarnet.console import percent_bar


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder; the run may still be training.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML file to write. Default: report.html in the run folder.")
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(min=5, metavar="SECONDS", help="Rewrite the report at this interval until stopped."),
    ] = None,
) -> None:
    """Write an HTML report of a pretraining run: curves, boundaries, router health, configuration and versions."""
    from ldarnet.io.run_files import METRICS, REPORT
    from ldarnet.report.page import write_report

    page, metrics = with_parent(out) if out else run / REPORT, run / METRICS
    while True:
        with percent_bar("reading", metrics.stat().st_size if metrics.is_file() else 0) as advance:
            record = write_report(run, page, refresh=every, advance=advance)
        step, warnings = record.last["step"], len(record.last.get("warnings", {}))
        print(f"wrote HTML report of {run} up to step {step:,} (active warnings: {warnings}): {page}")
        if every is None:
            return
        time.sleep(every)
