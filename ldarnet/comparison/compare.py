"""Our finished folds beside each other and beside published numbers: a report, a table for programs, and a picture."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from ldarnet.comparison.figure import draw
from ldarnet.comparison.published import FOLDS_SOURCE, published
from ldarnet.comparison.reading import find_results, read_arms
from ldarnet.comparison.report import report
from ldarnet.comparison.results import Comparison, TaskResults
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path, make_folder
from ldarnet.tasks.metrics import METRICS

__all__ = ["find_results", "write_comparison"]

COLUMNS = (
    "kind",
    "name",
    "suite",
    "task",
    "metric",
    "test_rows_are",
    "fold",
    "value",
    "interval",
    "interval_kind",
    "train_rows",
    "test_rows",
    "comparable_with_published",
    "data_fingerprint",
    "source",
)


def write_comparison(arms: Mapping[str, Sequence[Path]], out: Path) -> None:
    """Compare arms with each other and with what is published on their tasks.

    Writes to `out`, which is made: `results.md`, a report; `results.csv`, a line for each metric of every fold of ours
    and for every published number; `results.png`, a picture of both.

    Args:
        arms: names, and of each the `result.json` of its folds (`find_results`); of a task all from one run.
        out: folder; files of these names are replaced.

    Raises:
        UserError: a result cannot be read, or the folds of an arm are not of one run; `out` cannot be made; the device
            is full.
    """
    comparison = read_arms(arms)
    make_folder(out)
    with (
        atomic_path(out / run_files.COMPARISON_TABLE) as partial,
        open(partial, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_our_rows(comparison) + _published_rows(comparison))
    draw(comparison, out / run_files.COMPARISON_FIGURE)
    with atomic_path(out / run_files.COMPARISON_REPORT) as partial:
        partial.write_text(report(comparison, run_files.COMPARISON_FIGURE), encoding="utf-8")


def _our_rows(comparison: Comparison) -> list[dict[str, object]]:
    """A line for each fold, metric and kind of test rows."""
    return [
        {
            "kind": "ours",
            "name": result.arm,
            "suite": result.task.suite,
            "task": result.task.name,
            "metric": metric,
            "test_rows_are": which,
            "fold": fold.number,
            "value": value,
            "train_rows": fold.content["rows"]["train"],
            "test_rows": fold.content["rows"]["test" if which == "all" else "test_leak_free"],
            "comparable_with_published": _comparable(result),
            "data_fingerprint": fold.content["data_fingerprint"],
        }
        for result in comparison.results
        for fold in result.folds
        for which, scored in (("all", fold.test), ("leak_free", fold.leak_free))
        for metric in METRICS
        if (value := (scored or {}).get(metric)) is not None
    ]


def _published_rows(comparison: Comparison) -> list[dict[str, object]]:
    """A line for each published number on a task of ours, and one for each published fold."""
    rows = []
    for task in dict.fromkeys(result.task for result in comparison.results):
        for number in published(*task.key):
            common = {
                "kind": "published",
                "name": number.model,
                "suite": task.suite,
                "task": task.name,
                "metric": number.metric,
                "test_rows_are": "all",
                "source": number.source.key,
            }
            interval = "" if number.interval is None else number.interval
            rows.append(common | {"value": number.value, "interval": interval, "interval_kind": number.source.interval})
            if number.source.key == FOLDS_SOURCE:
                rows += [common | {"fold": fold, "value": value} for fold, value in enumerate(number.folds)]
    return rows


def _comparable(result: TaskResults) -> str:
    """Whether its rows are those of published numbers; empty where none are published."""
    if result.task.official is None:
        return ""
    return "yes" if result.shortfall is None else f"no: {result.shortfall}"
