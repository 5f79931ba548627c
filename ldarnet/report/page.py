"""`report.html`: a self-contained page about a run, generated from the files in its run folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ldarnet.console import format_duration
from ldarnet.interpret.figures import short_number
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path
from ldarnet.io.run_lines import LOSSES, NEXT_BASE_LOSS, loss_of
from ldarnet.report import learning_panels, machine_panels, router_panels
from ldarnet.report.drawing import draw_panels, format_time, number, template
from ldarnet.report.run_record import RunRecord

PANELS = {"Learning": learning_panels.PANELS, "Routers": router_panels.PANELS, "Machine": machine_panels.PANELS}


def write_report(
    folder: Path, out: Path, *, refresh: int | None = None, advance: Callable[[int], object] = lambda _: None
) -> RunRecord:
    """Write the report of a run, finished or running.

    Args:
        folder: run folder.
        out: HTML file to write.
        refresh: seconds after which browsers reload the page; None to never reload it.
        advance: progress callback; called with the size, in bytes, of each line read from metrics.jsonl.

    Returns:
        The data shown on the page.

    Raises:
        UserError: `folder` is not the folder of a pretraining run, the run has not logged a step, a file in the folder
            is malformed, `out` is a folder, or the disk is full.
    """
    run = RunRecord.read(folder, advance=advance)
    with atomic_path(out) as partial:
        page = template("pretraining.html.jinja").render(
            run=run,
            config=run.config,
            folder=run.folder,
            name=folder.resolve().name,
            facts=facts(run),
            groups={group: draw_panels(panels, run) for group, panels in PANELS.items()},
            regions=(run.valid[-1].get("regions", {}) if run.valid else {}),
            written=format_time((folder / run_files.METRICS).stat().st_mtime),
            now=format_time(time.time()),
            refresh=refresh,
        )
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
    return run


def facts(run: RunRecord) -> list[tuple[str, str, str]]:
    """Format the numbers at the top of the page, each as (label, value, note)."""
    last, valid = run.last, run.valid[-1] if run.valid else None
    causal = run.loss_name == NEXT_BASE_LOSS
    loss, unit = (LOSSES[NEXT_BASE_LOSS], "nats per base") if causal else ("loss", "nats per target position")
    total = run.config.get("training.steps")
    of = f"of {total:,}" if isinstance(total, int) else f"epoch {number(last.get('epoch'), 2)}"
    found = [
        ("step", f"{last['step']:,}", of),
        ("bases seen", _short(last["bases"]), f"in {format_duration(last.get('seconds', 0.0))}"),
        (
            f"training {loss}",
            number(loss_of(last), 4),
            unit,
        ),
    ]
    if valid is not None:
        found.append((f"validation {loss}", number(loss_of(valid), 4), f"at step {valid['step']:,}"))
        if (accuracy := valid.get("next_base_accuracy" if causal else "accuracy")) is not None:
            found.append(("accuracy", f"{accuracy:.1%}", "of next bases" if causal else "on masked positions"))
    if run.stages:
        target = last.get("target_ratio")
        note = "" if target is None else f"target {target:.3g}{' per stage' * (run.stages > 1)}"
        found.append(("bases per chunk", " / ".join(number(value, 2) for value in last["bases_per_chunk"]), note))
    used = f"MFU {mfu:.0%}" if (mfu := last.get("mfu")) is not None else "all ranks"
    found.append(("bases per second", _short(last.get("bases_per_second")), used))
    if (wait := last.get("data_wait")) is not None and wait >= 0.01:
        found.append(("data wait", f"{wait:.0%}", "of step time, maximum over ranks"))
    for count, name in (
        (last.get("skipped"), "skipped steps"),
        (last.get("checkpoint_failures"), "failed checkpoints"),
    ):
        if count:
            found.append((name, f"{count:,}", "see logs/ in the run folder"))
    return found


def _short(value: float | None) -> str:
    """Format a number with three digits and an SI prefix."""
    return "-" if value is None else short_number(float(f"{value:.3g}"))
