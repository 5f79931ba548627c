"""Markdown report of a comparison."""

from collections.abc import Callable, Iterable

from ldarnet.comparison.against_published import HOW_TO_READ, authors_section, ranking_section
from ldarnet.comparison.formatting import AUTHORS, SUITES, cell, model_label, table
from ldarnet.comparison.pairs import pairwise_section
from ldarnet.comparison.published import Publication, PublishedResult, published
from ldarnet.comparison.results import ComparedTask, Comparison
from ldarnet.comparison.runs import runs_section
from ldarnet.comparison.zero_mcc import zero_mcc_note
from ldarnet.markdown import escape
from ldarnet.tasks.metrics import MIN_FOLDS, find_metric, interval, metric_name

INTERVALS = {
    "t95": "half-width of the 95% confidence interval (Student's t over folds)",
    "range": "maximum minus minimum over seeds",
    "none": "not reported",
}


def report(comparison: Comparison, figure: str, advance: Callable[[int], object] = lambda _: None) -> str:
    """Render the Markdown report of a comparison.

    Args:
        comparison: results to report.
        figure: file name of the figure next to the report.
        advance: reports progress; called with K each time the test rows of K folds have been resampled.
    """
    comparison = comparison.renamed(escape)
    parts = [
        "# Comparison of fine-tuned models",
        _summary(comparison),
        f"![Mean and interval of each arm on each task]({figure})",
    ]
    for suite, of_suite in comparison.suites.items():
        parts += [f"## {SUITES.get(suite, suite)}", *_suite_sections(of_suite, advance)]
    parts += ["## Runs", runs_section(comparison), "## How to read this report", HOW_TO_READ]
    return "\n\n".join(parts) + "\n"


def _summary(comparison: Comparison) -> str:
    arms = ", ".join(f"**{arm}**" for arm in comparison.arms)
    lines = [
        f"Arms: {arms}. Values are means over folds ± half-width of the 95% confidence interval (Student's t), on test "
        "rows that no fold was trained or selected on. There is no interval for fewer than "
        f"{MIN_FOLDS} folds, or if all folds have the same value. See the end for how to read the tests."
    ]
    mismatches = {
        f"{result.task.name}: {result.row_mismatch}": None for result in comparison.results if result.row_mismatch
    }
    if mismatches:
        lines.append(f"> **Not comparable with published results**, shown for orientation. {'; '.join(mismatches)}.")
    differing = [task.name for task in comparison.tasks if len({one.fold_identity for one in comparison.on(task)}) > 1]
    if differing:
        lines.append(f"> **Arms differ in rows or folds** of {', '.join(differing)}.")
    if missing := _missing_folds(comparison):
        lines.append(f"> **Missing folds.** {missing}.")
    return "\n\n".join(lines)


def _missing_folds(comparison: Comparison) -> str:
    """State which arms lack folds on which tasks; empty if no fold is missing."""
    finished = {(len(result.folds), result.content["folds"]) for result in comparison.results}
    if len(finished) == 1:
        ((done, all_folds),) = finished
        return "" if done == all_folds else f"Every arm has finished {done} of {all_folds} folds on every task"
    return "; ".join(
        f"{result.arm} on {result.task.name}: {len(result.folds)} of {result.content['folds']} finished"
        for result in comparison.results
        if len(result.folds) < result.content["folds"]
    )


def _suite_sections(comparison: Comparison, advance: Callable[[int], object]) -> list[str]:
    parts = [_means(comparison), *filter(None, [zero_mcc_note(comparison)])]
    for title, text in (
        ("Leak-free test rows", _leak_free(comparison)),
        ("Wins and mean rank", ranking_section(comparison)),
        ("Pairwise comparison of arms, fold by fold", pairwise_section(comparison, advance)),
        ("Comparison with the LDARNet authors' folds", authors_section(comparison)),
        ("Published results", _published(comparison)),
    ):
        if text:
            parts += [f"### {title}", text]
    return parts


def _means(comparison: Comparison) -> str:
    """Table with the mean of each arm on each task, the authors' result and the best other published result."""
    arms, rows = comparison.arms, []
    for task in comparison.tasks:
        found = comparison.on(task)
        means = {result.arm: result.mean() for result in found}
        best = max((mean[0] for mean in means.values() if mean), default=None)
        cells = [
            cell(mean, bold=len(means) > 1 and mean is not None and mean[0] == best) for mean in map(means.get, arms)
        ]
        folds = dict.fromkeys(str(len(result.folds)) for result in found)
        row = [task.name, metric_name(task.metric), " or ".join(folds)]
        rows.append([*row, *cells, _authors(task), _best_published(task)])
    shown = [AUTHORS, "best other published"] if any(row[-2] != "-" or row[-1] != "-" for row in rows) else []
    return table(["task", "metric", "folds", *arms, *shown], [row if shown else row[:-2] for row in rows])


def _authors(task: ComparedTask) -> str:
    folds = list(task.authors_folds.values())
    return cell(interval(folds)) if folds else "-"


def _best_published(task: ComparedTask) -> str:
    others = [
        number
        for number in task.published
        if number.source.test != "other" and number.model.partition(" (")[0] != "LDARNet"
    ]
    if not others:
        return "-"
    best = max(others, key=lambda number: number.value)
    return f"{best.value:.3f} ({model_label(best)})"


def _leak_free(comparison: Comparison) -> str:
    """Table with the mean of each arm on all and on leak-free test rows."""
    rows = []
    for task in comparison.tasks:
        found = [comparison.get(arm, task) for arm in comparison.arms]
        if not any(result and result.values(leak_free=True) for result in found):
            continue
        counts = [result.content["rows"] for result in found if result]
        tested = _unique_counts(one["test"] for one in counts)
        leak_free = _unique_counts(one["test_leak_free"] for one in counts)
        cells = [cell(result.mean(leak_free=which) if result else None) for result in found for which in (False, True)]
        rows.append([task.name, tested, leak_free, *cells])
    if not rows:
        return ""
    head = [title for arm in comparison.arms for title in (arm, f"{arm}, leak-free")]
    return table(["task", "test rows", "leak-free", *head], rows)


def _unique_counts(numbers: Iterable[int | None]) -> str:
    return " or ".join(dict.fromkeys("-" if number is None else f"{number:,}" for number in numbers))


def _published(comparison: Comparison) -> str:
    """Tables of all published results on the tasks, one per source, with protocol and meaning of ±."""
    by_source: dict[str, list[PublishedResult]] = {}
    for task in comparison.tasks:
        for number in published(*task.key):
            by_source.setdefault(number.source.key, []).append(number)
    return "\n\n".join(_publication(numbers[0].source, numbers) for numbers in by_source.values())


def _publication(source: Publication, numbers: list[PublishedResult]) -> str:
    models = list(dict.fromkeys(number.model for number in numbers))
    by_task: dict[tuple[str, str], dict[str, PublishedResult]] = {}
    for number in numbers:
        by_task.setdefault((number.task, number.metric), {})[number.model] = number
    one_each = all(len(found) == 1 for found in by_task.values()) and len(models) > 1
    head = ["model", "value"] if one_each else [_with_size(source, model) for model in models]
    rows = [[task, _metric_name(metric), *_cells(found, models, one_each)] for (task, metric), found in by_task.items()]
    lines = (
        f"**{source.title}** ([{source.where}]({source.url}); read from {source.read}). Protocol: {source.protocol}. "
        f"±: {INTERVALS[source.interval]}."
    )
    return f"{lines}\n\n" + table(["task", "metric", *head], rows)


def _metric_name(metric: str) -> str:
    """Display name of a registered metric, or of a metric that only publications use, such as `f1_binary`."""
    return metric.replace("_", ", ") if find_metric(metric) is None else metric_name(metric)


def _cells(found: dict[str, PublishedResult], models: list[str], one_each: bool) -> list[str]:
    if one_each:
        ((model, number),) = found.items()
        return [model, f"{number.value:.3f}"]
    return [cell((number.value, number.interval)) if (number := found.get(model)) else "-" for model in models]


def _with_size(source: Publication, model: str) -> str:
    size = source.parameters.get(model)
    return model if size is None else f"{model} ({size:g}M)"
