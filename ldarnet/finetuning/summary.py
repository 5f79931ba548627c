"""Summary of the finished folds of a run: summary.json, a table, and the exported classifier of the best fold."""

import math
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich import box
from rich.table import Table

from ldarnet.console import render_lines
from ldarnet.errors import UserError
from ldarnet.finetuning.arms import arm_of
from ldarnet.finetuning.display import FinetuneProgress, number
from ldarnet.finetuning.job import FinetuneJob
from ldarnet.finetuning.records import BasesPerChunk, FoldRecord, scores_of, stages_of, task_type_of
from ldarnet.finetuning.results import read_result
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path, staged_folder, write_json_atomic
from ldarnet.model.classifiers import LDARNetClassifier
from ldarnet.tasks.metrics import interval, metric_name, metrics_of

WIDTH = 118


def summarize(job: FinetuneJob, display: FinetuneProgress) -> None:
    """Write and print the summary of the finished folds; rank 0 only."""
    run_dir = Path(job.config.run.dir)
    finished = {fold: result for fold in job.folds if (result := read_result(job.folder(fold))) is not None}
    _check_same_run(job, finished)
    results = list(finished.values())
    summary = summary_of(results, job.config.evaluation.metric) | {"export": _export(job, results)}
    write_json_atomic(run_dir / run_files.SUMMARY, summary, indent=2)
    lines = render_lines(_table(results, summary), WIDTH) + _lines(job, results, summary)
    with atomic_path(run_dir / run_files.SUMMARY_TEXT) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    display.info("\n" + "\n".join(lines))


def summary_of(results: list[FoldRecord], metric: str) -> dict[str, Any]:
    """Content of summary.json, from the results of the finished folds of one run.

    `split` is `test` if there are test rows, else `valid`. Three fields describe `metric` on the rows of this split:
    `folds` (one value per fold), `mean` and `interval` (half-width of the 95% confidence interval). `metrics` has these
    three fields for every metric. `leak_free` has the fields `folds`, `mean`, `interval` and `metrics` for the
    leak-free test rows, and the number of these rows as `rows`; it is None unless all folds have leak-free scores.
    """
    first = results[0]
    split = "test" if first.get("test") else "valid"
    known = metrics_of(task_type_of(first))
    metrics = {name: _over_folds([scores_of(result, split).get(name) for result in results]) for name in known}
    free = None
    if all(result["test_leak_free"] for result in results):
        leak_free = [scores_of(result, "test_leak_free") for result in results]
        of_free = {name: _over_folds([scores.get(name) for scores in leak_free]) for name in known}
        free = {"rows": first["rows"]["test_leak_free"], **of_free[metric], "metrics": of_free}
    return {
        "task": first["task"],
        "suite": first["suite"],
        "arm": first["arm"],
        "mode": first["mode"],
        "metric": metric,
        "split": split,
        "numbers": [result["fold"] for result in results],
        **metrics[metric],
        "metrics": metrics,
        "leak_free": free,
        "valid": _over_folds([result["valid"][metric] for result in results]),
        "bases_per_chunk": {
            when: np.mean([result["bases_per_chunk"][when] for result in results], axis=0).tolist()
            for when in ("before", "after")
        },
        "seconds": sum(result["seconds"] for result in results),
    }


def _check_same_run(job: FinetuneJob, results: dict[int, FoldRecord]) -> None:
    """Check that each result belongs to this run and to the fold whose folder contains it.

    Raises:
        UserError: a result has the wrong fold number or metric, its test scores are missing or unexpected, or its
            number of router stages differs from that of the first result.
    """
    stages = {fold: stages_of(result) for fold, result in results.items()}
    for fold, result in results.items():
        tested = result.get("test") is not None
        expected = (fold, job.config.evaluation.metric, job.test is not None, next(iter(stages.values())))
        if (result["fold"], result["metric"], tested, stages[fold]) != expected:
            path = job.folder(fold) / run_files.RESULT
            raise UserError(f"{path}: belongs to another run or fold; delete this file to train the fold again")


def _over_folds(values: list[float | None]) -> dict[str, Any]:
    """Values of the folds, their mean, and the half-width of its confidence interval.

    The mean and the half-width are None if a value is undefined.
    """
    defined = [value for value in values if value is not None]
    mean, half = interval(defined) if len(defined) == len(values) else (None, None)
    return {"folds": values, "mean": mean, "interval": half}


def _table(results: list[FoldRecord], summary: dict[str, Any]) -> Table:
    """Table with one row per fold, a row of means over folds, and a row of half-widths of confidence intervals."""
    metric, free = summary["metric"], summary["leak_free"]
    split: Literal["test", "valid"] = summary["split"]
    others = [name for name in metrics_of(task_type_of(results[0])) if name != metric]
    title = f"{summary['task']}, {split} rows" + (f"; leak-free: {free['rows']:,} of them" if free else "")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    tested = [f"valid {metric_name(metric)}"] if split == "test" else []
    for name in ("fold", "best epoch", *tested, metric_name(metric)):
        table.add_column(name, justify="right")
    for name in ([f"leak-free {metric_name(metric)}"] if free else []) + [metric_name(name) for name in others]:
        table.add_column(name, justify="right")
    if summary["bases_per_chunk"]["after"]:
        table.add_column("bases/chunk before, after", justify="right")
    for result in results:
        scores = scores_of(result, split)
        row = ([result["valid"][metric]] if tested else []) + [scores[metric]]
        row += [scores_of(result, "test_leak_free")[metric]] if free else []
        row += [scores.get(name) for name in others]
        drift = _drift(result["bases_per_chunk"])
        table.add_row(str(result["fold"]), str(result["best_epoch"]), *map(number, row), *drift)
    if len(results) > 1:
        over = [
            *([summary["valid"]] if tested else []),
            summary,
            *([free] if free else []),
            *(summary["metrics"][name] for name in others),
        ]
        table.add_section()
        drift = _drift(summary["bases_per_chunk"])
        table.add_row("mean", "", *(number(values["mean"]) for values in over), *drift)
        table.add_row("±", "", *(number(values["interval"]) for values in over))
    return table


def _drift(bases_per_chunk: BasesPerChunk) -> list[str]:
    """List of one table cell with bases per chunk before and after training; empty for models without a router."""
    before, after = bases_per_chunk["before"], bases_per_chunk["after"]
    parts = ["/".join(f"{value:.2f}" for value in chunks) for chunks in (before, after)]
    return [", ".join(parts)] if parts[0] else []


def _lines(job: FinetuneJob, results: list[FoldRecord], summary: dict[str, Any]) -> list[str]:
    """Lines below the table: notes and paths."""
    run_dir, missing = job.config.run.dir, len(job.folds) - len(summary["numbers"])
    lines = (
        ["±: half-width of the 95% confidence interval over folds (Student's t)"]
        if len(results) > 1
        else _intervals(results[0], summary["split"])
    )
    if summary["split"] == "valid":
        selection = arm_of(job.config).selection
        lines.append(
            f"validation rows also selected the {selection}, so these values are optimistic; set data.test to evaluate "
            "on other rows"
        )
    if missing:
        lines.append(f"{missing} of {len(job.folds)} folds have not been trained; set folds.only=null to train them")
    lines += [f"results      {run_dir / run_files.SUMMARY}", f"predictions  {run_dir}/fold*/{run_files.PREDICTIONS}"]
    if summary["export"]:
        lines += [
            f"classifier   {run_dir / run_files.EXPORT} (fold {summary['export']['fold']}, best in validation)",
            f"predict      ldarnet predict {run_dir / run_files.EXPORT} my.fa --out predictions.tsv",
        ]
    return lines


def _intervals(result: FoldRecord, split: str) -> list[str]:
    """Line with the 95% intervals of one fold over its rows; empty for results of earlier versions."""
    found = {name: limits for name, limits in result.get("intervals", {}).items() if limits}
    if not found:
        return []
    values = ", ".join(f"{metric_name(name)} {number(low)} to {number(high)}" for name, (low, high) in found.items())
    return [f"95% interval over {split} rows (bootstrap): {values}"]


def _export(job: FinetuneJob, results: list[FoldRecord]) -> dict[str, Any] | None:
    """Export the classifier of the fold with the best validation metric, among folds whose weights exist."""
    if not isinstance(job.network, LDARNetClassifier):
        return None
    metric, out = job.config.evaluation.metric, Path(job.config.run.dir) / run_files.EXPORT
    candidates = [result for result in results if (job.folder(result["fold"]) / run_files.BEST).is_dir()]
    if not candidates:
        return None
    best = max(candidates, key=lambda result: -math.inf if (value := result["valid"][metric]) is None else value)
    with staged_folder(out, replace=True) as staged:
        shutil.copytree(job.folder(best["fold"]) / run_files.BEST, staged, dirs_exist_ok=True)
    return {"fold": best["fold"], metric: best["valid"][metric]}
