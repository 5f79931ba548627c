"""`report.html`: a self-contained page about a run, generated from the files in its run folder."""

from __future__ import annotations

import base64
import io
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader

from ldarnet.console import format_duration
from ldarnet.interpret.figures import short_number, styled_figure
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path
from ldarnet.redaction import redact
from ldarnet.report import learning_panels, machine_panels, router_panels
from ldarnet.report.panels import Panel
from ldarnet.report.run_record import RunRecord

PANELS = {"Learning": learning_panels.PANELS, "Routers": router_panels.PANELS, "Machine": machine_panels.PANELS}
WIDE, NARROW = 11.0, 5.4
"""Panel widths in inches."""


def write_report(folder: Path, out: Path, *, refresh: int | None = None) -> RunRecord:
    """Write the report of a run, finished or running.

    Args:
        folder: run folder.
        out: HTML file to write.
        refresh: seconds after which browsers reload the page; None to never reload it.

    Returns:
        The contents of the run folder that the page shows.

    Raises:
        UserError: `folder` holds no run with a logged step, `out` is a folder, or the disk is full.
    """
    run = RunRecord.read(folder)
    with atomic_path(out) as partial:
        page = _template().render(
            run=run,
            name=folder.resolve().name,
            facts=facts(run),
            groups={
                group: [it for panel in panels if (it := _draw_panel(panel, run))] for group, panels in PANELS.items()
            },
            regions=(run.valid[-1].get("regions", {}) if run.valid else {}),
            written=_time((folder / run_files.METRICS).stat().st_mtime),
            now=_time(time.time()),
            refresh=refresh,
        )
        partial.write_text(page, encoding="utf-8")
    return run


def facts(run: RunRecord) -> list[tuple[str, str, str]]:
    """Format key figures for the top of the page, each as (label, value, note)."""
    last, valid = run.last, run.valid[-1] if run.valid else {}
    total = run.config.get("training.steps")
    found = [
        ("step", f"{last['step']:,}", f"of {total:,}" if total else f"epoch {last.get('epoch', 0):.2f}"),
        ("bases seen", short_number(float(f"{last['bases']:.3g}")), f"in {format_duration(last.get('seconds', 0.0))}"),
        ("training loss", f"{last['mlm_loss']:.4f}", "nats per target position"),
    ]
    if valid:
        found.append(("validation loss", f"{valid['mlm_loss']:.4f}", f"at step {valid['step']:,}"))
        if "accuracy" in valid:
            found.append(("accuracy", f"{valid['accuracy']:.1%}", "on masked positions"))
    if run.stages:
        target = f"target {last['target_ratio']:.3g}{' per stage' * (run.stages > 1)}" if "target_ratio" in last else ""
        found.append(("bases per chunk", " / ".join(f"{value:.2f}" for value in last["bases_per_chunk"]), target))
    used = f"MFU {last['mfu']:.0%}" if "mfu" in last else "all ranks"
    found.append(("bases per second", short_number(float(f"{last['bases_per_second']:.3g}")), used))
    if last.get("data_wait", 0.0) >= 0.01:
        found.append(("data wait", f"{last['data_wait']:.0%}", "of step time, maximum over ranks"))
    for key, name in (("skipped", "skipped steps"), ("checkpoint_failures", "failed checkpoints")):
        if last.get(key):
            found.append((name, f"{last[key]:,}", "see logs/ in the run folder"))
    return found


def _draw_panel(panel: Panel, run: RunRecord) -> dict[str, Any] | None:
    """Draw a panel; return the panel and its figure as base64-encoded SVG, or None if the run has no data for it."""
    with styled_figure(WIDE if panel.wide else NARROW, panel.height) as figure:
        if not panel.draw(figure, run):
            return None
        text = io.BytesIO()
        figure.savefig(text, format="svg", dpi=160, metadata={"Date": None})
    return {"panel": panel, "figure": base64.b64encode(text.getvalue()).decode("ascii")}


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("ldarnet.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["yaml"] = _yaml
    return environment.get_template("page.html.jinja")


def _yaml(value: Any) -> str:
    """Format a configuration value on one line, as in config.yaml; remove credentials that old versions stored."""
    return redact(yaml.safe_dump(value, default_flow_style=True, width=1_000_000).removesuffix("...\n").strip())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
