"""Report of an ablation: report.md with tables and figures, and the same numbers as CSV files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldarnet.ablation import boundary_tables, downstream_tables, pretraining_tables, report_figures
from ldarnet.ablation.differences import ArmDifference
from ldarnet.ablation.downstream_tables import Downstream, downstream_section, missing_runs
from ldarnet.ablation.links import RunLinks
from ldarnet.ablation.pretraining_tables import EQUAL_BASES, loss_name, pretraining_section
from ldarnet.ablation.results import AblationResults, read_results
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path, make_folder
from ldarnet.markdown import escape

REPORT = "report.md"
CLAIMS = "1.5 to 4.3 points (DNAChunker, arXiv 2601.03019) and up to 14 points (LDARNet, arXiv 2606.04552)"
"""Published advantages of learned boundaries over fixed ones on downstream tasks."""
CLAIMED_POINTS = (1.5, 4.3, 14)
MODES = {"probe": "Frozen backbone (probe)", "finetune": "Fine-tuning"}
MAX_MISSING = 20
HOW_TO_READ = """\
- **Arms** differ in where chunks begin, or in their tokens. Their main networks are sized to the same training FLOPs \
per base; the column "training MFLOP/base" has the realized value, from the logged chunk lengths.
- **Losses** are in bits per masked base on the same windows. Base models are scored on the same masked bases. For \
6-mers, the predicted distributions are marginalized to bases, and only masks of aligned spans are comparable. BPE \
tokens are scored as tokens, and a span masks every token that overlaps it. Losses of causal models have tables of \
their own, because they cannot be compared with masked losses.
- **±** after a loss is the standard deviation over seeds. **Differences** are arm minus reference, paired by seed; \
± is the half-width of the 95% confidence interval (Student's t). For losses, less is better; for tasks, more is better.
- **Corrected t**: differences of folds share training rows, so their variance is multiplied by 1/k + (test rows / \
training rows) instead of 1/k (Nadeau and Bengio 2003; Bouckaert and Frank 2004 for repeated folds). Folds of one seed \
start from the same pretrained model, which this test ignores, so it is too optimistic about other pretraining seeds; \
the mean over tasks is tested over seeds alone.
- **Holm**: p-values corrected over all rows of a table.
- **Detectable**: smallest true difference that the test of this row finds at the 5% level with a power of 80%, from \
the observed spread: (t_0.975 + t_0.8) times the standard error (Bloom 1995). With few seeds it is a rough estimate, \
and Holm's correction raises it.
- A difference that is not significant does not show that two arms are equal: compare its interval with the claims."""


def write_report(folder: Path) -> None:
    """Write report.md, CSV files and figures to the folder `report` of an ablation, finished or not.

    Raises:
        UserError: the folder is not an ablation, a file in it is malformed, or the disk is full.
    """
    results = read_results(folder)
    downstream = [Downstream(results, mode) for mode in results.record["modes"]]
    out = make_folder(folder / run_files.ABLATION_REPORT)
    links = RunLinks(out)
    losses = pretraining_tables.differences(results)
    means = {one.mode: one.mean_differences() for one in downstream}
    by_task = {one.mode: one.task_differences() for one in downstream}
    tables = {
        "pretraining.csv": pretraining_tables.csv_rows(results, links),
        "downstream.csv": [row for one in downstream for row in downstream_tables.csv_rows(one, links)],
        "boundaries.csv": boundary_tables.csv_rows(results, links),
        "differences.csv": [
            _difference_row(one) for group in (losses, *means.values(), *by_task.values()) for one in group
        ],
    }
    for name, rows in tables.items():
        _write_csv(out / name, rows)
    figures = _draw(results, losses, means, out)
    sections = {
        "What this experiment could detect": _power(results, losses, means),
        "Missing": _missing(results),
        "Figures": "\n\n".join(f"![{title}]({name})" for name, title in figures.items()),
        "Pretraining": pretraining_section(results, losses, links),
    }
    for one in downstream:
        title = MODES.get(one.mode, escape(one.mode))
        sections[f"Downstream: {title}"] = downstream_section(one, means[one.mode], by_task[one.mode], links)
    sections["Boundaries"] = boundary_tables.boundary_section(results, links)
    sections["How to read this report"] = HOW_TO_READ
    text = "\n\n".join([_heading(results), *(f"## {title}\n\n{body}" for title, body in sections.items() if body)])
    with atomic_path(out / REPORT) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def _heading(results: AblationResults) -> str:
    arms = ", ".join(f"**{escape(name)}**" for name in results.arms)
    count = _range([len(arm.finished) for arm in results.arms.values()])
    bases = [curve.bases[-1] for arm in results.arms.values() for curve in arm.curves.values()]
    scale = f", {_range(bases)} bases of pretraining per run" if bases else ""
    return (
        f"# Tokenizations at equal cost\n\nArms: {arms}. Reference: **{escape(results.reference)}**. "
        f"Finished seeds per arm: {count}{scale}. Numbers in parentheses link to the runs of the seeds."
    )


def _power(results: AblationResults, losses: list[ArmDifference], means: dict[str, list[ArmDifference]]) -> str:
    """State the smallest detectable differences in words."""
    lines = []
    for mode, found in means.items():
        title = MODES.get(mode, escape(mode))
        detectable = [one.difference.detectable for one in found if one.difference.detectable is not None]
        if not detectable:
            lines.append(f"- {title}: unknown; at least two seeds of the reference and of another arm are needed.")
            continue
        seeds = _range([one.difference.count for one in found])
        counts = [sum(value <= claim for value in detectable) for claim in CLAIMED_POINTS]
        claims = ", ".join(f"{claim:g} points in {count}" for count, claim in zip(counts, CLAIMED_POINTS, strict=True))
        lines.append(
            f"- {title}, mean over tasks, {seeds} seeds: {min(detectable):.2f} to {max(detectable):.2f} points, "
            f"depending on the arm. True differences that would be found: {claims} of {len(found)} comparisons."
        )
    for loss in results.losses():
        chosen = [one for one in losses if (one.table, one.quantity) == (EQUAL_BASES, loss)]
        detectable = [one.difference.detectable for one in chosen if one.difference.detectable is not None]
        if detectable:
            seeds = _range([one.difference.count for one in chosen])
            lines.append(
                f"- Loss, {loss_name(loss)}, {seeds} seeds: {min(detectable):.4f} to {max(detectable):.4f} bits, "
                "depending on the arm."
            )
    head = (
        f"Published advantages of learned boundaries on downstream tasks: {CLAIMS}. The smallest true difference from "
        "the reference that a single comparison of this experiment finds with a power of 80% (two-sided test at the 5% "
        "level):"
    )
    return "\n\n".join([head, "\n".join(lines) or "- unknown: no arm can be compared with the reference yet."])


def _range(values: Sequence[float]) -> str:
    low, high = (f"{value:,.0f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _missing(results: AblationResults) -> str:
    """List what the report lacks; empty if nothing is missing."""
    found = [
        f"arm {escape(name)}, seed {escape(one.seed)}: {escape(one.missing)}"
        for name, arm in results.arms.items()
        for one in arm.seeds
        if one.missing
    ]
    found += [
        f"arm {escape(name)}: statistics of boundaries" for name, arm in results.arms.items() if arm.statistics is None
    ]
    found += missing_runs(results)
    lines = [f"- {line}" for line in found[:MAX_MISSING]]
    if len(found) > MAX_MISSING:
        lines.append(f"- and {len(found) - MAX_MISSING} more")
    return "\n".join(lines)


def _draw(
    results: AblationResults, losses: list[ArmDifference], means: dict[str, list[ArmDifference]], out: Path
) -> dict[str, str]:
    """Draw the figures that have data; returns file name -> title."""
    groups = {
        f"Loss, {loss_name(loss)}": [one for one in losses if (one.table, one.quantity) == (EQUAL_BASES, loss)]
        for loss in results.losses()
    }
    groups |= {f"{MODES.get(mode, mode)}, mean over tasks": found for mode, found in means.items()}
    drawn = {
        (report_figures.DIFFERENCES, "Differences from the reference with 95% intervals"): (
            report_figures.draw_differences(results, groups, out / report_figures.DIFFERENCES)
        ),
        (report_figures.CURVES, "Loss over bases and over training FLOPs"): report_figures.draw_curves(
            results, out / report_figures.CURVES
        ),
        (report_figures.LENGTHS, "Distribution of chunk lengths"): report_figures.draw_chunk_lengths(
            results, out / report_figures.LENGTHS
        ),
    }
    for (name, _), done in drawn.items():
        if not done:
            (out / name).unlink(missing_ok=True)  # of an earlier report
    return {name: title for (name, title), done in drawn.items() if done}


def _difference_row(one: ArmDifference) -> dict[str, Any]:
    mean, half = one.difference.mean, one.difference.half
    return {
        "table": one.table,
        "quantity": one.quantity,
        "arm": one.arm,
        "unit": one.unit,
        "pairs": one.difference.count,
        "difference": mean,
        "low": None if half is None else mean - half,
        "high": None if half is None else mean + half,
        "p": one.difference.p,
        "holm": one.holm,
        "detectable": one.difference.detectable,
    }


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with atomic_path(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        if rows:
            writer.writeheader()
            writer.writerows(rows)
