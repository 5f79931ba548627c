"""Write a comparison of fine-tuned models: a report, a CSV table and a figure."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ldarnet.comparison.figure import draw
from ldarnet.comparison.published import FOLDS_SOURCE, published
from ldarnet.comparison.reading import find_results, read_arms
from ldarnet.comparison.report import report
from ldarnet.comparison.results import Comparison, TaskResults
from ldarnet.finetuning.records import task_type_of
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path, make_folder
from ldarnet.tasks.metrics import metrics_of

__all__ = ["find_results", "write_comparison"]

COLUMNS = (
    "kind",
    "name",
    "suite",
    "task",
    "metric",
    "test_set",
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


def write_comparison(
    arms: Mapping[str, Sequence[Path]], out: Path, *, advance: Callable[[int], object] = lambda _: None
) -> None:
    """Compare arms with each other and with the published results on their tasks.

    Writes the report `results.md`, the table `results.csv` and the figure `results.png`. The table has one row
    per fold, metric and test set of the arms, one row per published result, and one row per published fold.

    Args:
        arms: for each arm, the `result.json` files of its folds (see `find_results`); all folds of a task must come
            from one run.
        out: output folder, created if missing; existing files with these names are replaced.
        advance: reports progress. It is called with 1 each time a fold has been read, and later with K each time the
            test rows of K folds have been resampled.

    Raises:
        UserError: a result cannot be read, the folds of an arm come from different runs, or `out` cannot be written.
    """
    comparison = read_arms(arms, advance=advance)
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
        partial.write_text(report(comparison, run_files.COMPARISON_FIGURE, advance), encoding="utf-8")


def _our_rows(comparison: Comparison) -> list[dict[str, object]]:
    """CSV rows of our results: one per fold, metric and test set (all rows, leak-free rows)."""
    return [
        {
            "kind": "ours",
            "name": result.arm,
            "suite": result.task.suite,
            "task": result.task.name,
            "metric": metric,
            "test_set": test_set,
            "fold": fold.number,
            "value": value,
            "train_rows": fold.content["rows"]["train"],
            "test_rows": fold.content["rows"]["test" if test_set == "all" else "test_leak_free"],
            "comparable_with_published": _comparable(result),
            "data_fingerprint": fold.content["data_fingerprint"],
        }
        for result in comparison.results
        for fold in result.folds
        for test_set, scores in (("all", fold.test), ("leak_free", fold.leak_free))
        for metric in metrics_of(task_type_of(fold.content))
        if (value := (scores or {}).get(metric)) is not None
    ]


def _published_rows(comparison: Comparison) -> list[dict[str, object]]:
    """CSV rows of published results: one per result on the compared tasks, and one per published fold."""
    rows = []
    for task in dict.fromkeys(result.task for result in comparison.results):
        for number in published(*task.key):
            common = {
                "kind": "published",
                "name": number.model,
                "suite": task.suite,
                "task": task.name,
                "metric": number.metric,
                "test_set": "all",
                "source": number.source.key,
            }
            interval = "" if number.interval is None else number.interval
            rows.append(common | {"value": number.value, "interval": interval, "interval_kind": number.source.interval})
            if number.source.key == FOLDS_SOURCE:
                rows += [common | {"fold": fold, "value": value} for fold, value in enumerate(number.folds)]
    return rows


def _comparable(result: TaskResults) -> str:
    """`yes` if published results are comparable, else `no` with the reason; empty for user-provided tasks."""
    if result.task.official is None:
        return ""
    return "yes" if result.row_mismatch is None else f"no: {result.row_mismatch}"
