"""The report of a comparison, as Markdown."""

from collections.abc import Iterable

from ldarnet.comparison.pairs import pairs
from ldarnet.comparison.published import Number, Publication, published
from ldarnet.comparison.results import ComparedTask, Comparison
from ldarnet.comparison.runs import runs
from ldarnet.comparison.tables import (
    AUTHORS,
    SUITES,
    cell,
    named,
    table,
)
from ldarnet.comparison.versus import HOW_TO_READ, against_authors, ranking
from ldarnet.comparison.zeros import zeros
from ldarnet.tasks.metrics import METRICS, MIN_FOLDS, interval

INTERVALS = {
    "t95": "95% interval by Student's t over folds",
    "range": "largest minus smallest value over seeds",
    "none": "none",
}


def report(comparison: Comparison, picture: str) -> str:
    """The whole file.

    Args:
        comparison: of all arms.
        picture: name of the picture beside it.
    """
    parts = [
        "# Comparison of fine-tuned models",
        _opening(comparison),
        f"![Means and intervals of each task]({picture})",
    ]
    for suite, of_suite in comparison.suites.items():
        parts += [f"## {SUITES.get(suite, suite)}", *_suite(of_suite)]
    parts += ["## Runs", runs(comparison), "## How to read this", HOW_TO_READ]
    return "\n\n".join(parts) + "\n"


def _opening(comparison: Comparison) -> str:
    arms = ", ".join(f"**{arm}**" for arm in comparison.arms)
    lines = [
        f"Compared: {arms}. Numbers are means over folds and, behind ±, half the width of their 95% interval by "
        "Student's t, on test rows that no fold trained or chose on; there is no interval of fewer than "
        f"{MIN_FOLDS} folds, nor where all have the same number. What all this can say stands at the end."
    ]
    short = {f"{result.task.name}: {result.shortfall}": None for result in comparison.results if result.shortfall}
    if short:
        lines.append(f"> **Not comparable with published numbers**, here for orientation. {'; '.join(short)}.")
    apart = [task.name for task in comparison.tasks if len({one.same_folds for one in comparison.on(task)}) > 1]
    if apart:
        lines.append(f"> **Not all arms have the same rows and folds** of {', '.join(apart)}.")
    if missing := _missing_folds(comparison):
        lines.append(f"> **Not all folds are there.** {missing}.")
    return "\n\n".join(lines)


def _missing_folds(comparison: Comparison) -> str:
    """Which folds there are, where they are not all; nothing where they are."""
    there = {(len(result.folds), result.content["folds"]) for result in comparison.results}
    if len(there) == 1:
        ((done, all_folds),) = there
        return "" if done == all_folds else f"{done} of {all_folds} of every arm and task"
    return "; ".join(
        f"{result.arm} on {result.task.name}: {len(result.folds)} of {result.content['folds']}"
        for result in comparison.results
        if len(result.folds) < result.content["folds"]
    )


def _suite(comparison: Comparison) -> list[str]:
    """The sections of one suite."""
    parts = [_means(comparison), *filter(None, [zeros(comparison)])]
    for title, text in (
        ("Leak-free test rows", _leak_free(comparison)),
        ("Wins and mean rank", ranking(comparison)),
        ("Arms against each other, fold by fold", pairs(comparison)),
        ("Against the folds of LDARNet's authors", against_authors(comparison)),
        ("Published numbers", _published(comparison)),
    ):
        if text:
            parts += [f"### {title}", text]
    return parts


def _means(comparison: Comparison) -> str:
    """Our means beside the authors' and the best other published one."""
    arms, rows = comparison.arms, []
    for task in comparison.tasks:
        found = comparison.on(task)
        means = {result.arm: result.mean() for result in found}
        best = max((mean[0] for mean in means.values() if mean), default=None)
        cells = [
            cell(mean, bold=len(means) > 1 and mean is not None and mean[0] == best) for mean in map(means.get, arms)
        ]
        folds = dict.fromkeys(str(len(result.folds)) for result in found)
        told = [task.name, METRICS[task.metric].name, " or ".join(folds)]
        rows.append([*told, *cells, _authors(task), _best_published(task)])
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
    return f"{best.value:.3f} ({named(best)})"


def _leak_free(comparison: Comparison) -> str:
    """Full and leak-free test rows beside each other."""
    rows = []
    for task in comparison.tasks:
        found = [comparison.get(arm, task) for arm in comparison.arms]
        if not any(result and result.values(leak_free=True) for result in found):
            continue
        rows_of = [result.content["rows"] for result in found if result]
        tested, free = (_counts(one.get(key) for one in rows_of) for key in ("test", "test_leak_free"))
        cells = [cell(result.mean(leak_free=which) if result else None) for result in found for which in (False, True)]
        rows.append([task.name, tested, free, *cells])
    if not rows:
        return ""
    head = [words for arm in comparison.arms for words in (arm, f"{arm}, leak-free")]
    return table(["task", "test rows", "leak-free", *head], rows)


def _counts(numbers: Iterable[int | None]) -> str:
    """Numbers of rows, each once."""
    return " or ".join(dict.fromkeys("-" if number is None else f"{number:,}" for number in numbers))


def _published(comparison: Comparison) -> str:
    """All published numbers on the tasks, by source, with protocol and kind of interval."""
    by_source: dict[str, list[Number]] = {}
    for task in comparison.tasks:
        for number in published(*task.key):
            by_source.setdefault(number.source.key, []).append(number)
    return "\n\n".join(_source(numbers[0].source, numbers) for numbers in by_source.values())


def _source(source: Publication, numbers: list[Number]) -> str:
    models = list(dict.fromkeys(number.model for number in numbers))
    by_task: dict[tuple[str, str], dict[str, Number]] = {}
    for number in numbers:
        by_task.setdefault((number.task, number.metric), {})[number.model] = number
    one_each = all(len(found) == 1 for found in by_task.values()) and len(models) > 1
    head = ["model", "value"] if one_each else [_with_size(source, model) for model in models]
    rows = [[task, _metric_name(metric), *_cells(found, models, one_each)] for (task, metric), found in by_task.items()]
    lines = (
        f"**{source.title}** ([{source.where}]({source.url}); read from {source.read}). Protocol: {source.protocol}. "
        f"Behind ±: {INTERVALS[source.interval]}."
    )
    return f"{lines}\n\n" + table(["task", "metric", *head], rows)


def _cells(found: dict[str, Number], models: list[str], one_each: bool) -> list[str]:
    if one_each:
        ((model, number),) = found.items()
        return [model, f"{number.value:.3f}"]
    return [cell((number.value, number.interval)) if (number := found.get(model)) else "-" for model in models]


def _with_size(source: Publication, model: str) -> str:
    size = source.parameters.get(model)
    return model if size is None else f"{model} ({size:g}M)"


def _metric_name(metric: str) -> str:
    """Display name, also of metrics that only publications use."""
    return METRICS[metric].name if metric in METRICS else metric.replace("_", ", ")
