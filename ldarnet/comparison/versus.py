"""The sections of a comparison that hold arms against published results: ranks, and the folds of LDARNet's authors."""

import numpy as np

from ldarnet.comparison.published import Number
from ldarnet.comparison.results import ComparedTask, Comparison, Key, TaskResults
from ldarnet.comparison.statistics import corrected_t, welch, wins_and_ranks
from ldarnet.comparison.tables import (
    AUTHORS,
    cell,
    named,
    table,
    with_holm,
)
from ldarnet.tasks.metrics import METRICS, MIN_FOLDS, interval

HOW_TO_READ = """\
- **Intervals** (95%, Student's t over folds) are over training rows, order and weights. Folds share most of their \
training rows, so that they are too narrow for other training rows, and all of them share the test rows, so that \
they say nothing of others. Where there are fewer than 3 folds, or all have the same number, there is none: the \
picture and `results.csv` have every fold. A published "±" may be something else; its kind stands above its table.
- **Corrected t** (Nadeau and Bengio 2003): the variance of the differences between folds is multiplied by 1/k + \
(test rows / training rows) in place of 1/k, because folds are not independent. A small p says: in another order, \
from other new weights, with another part of these training rows left out, one arm would still be ahead of the other \
on these test rows. It cannot say so of other training rows (folds share most of theirs, and differ far less than \
new draws would), of other test rows, of other settings, or of another pretraining. The correction was derived for \
rows drawn anew with each split; here it is a guard against too small p, not an exact level.
- **Signed rank** (Wilcoxon) takes folds for independent. With k folds p cannot be smaller than 2 / 2^k.
- **Over test rows**: the 95% interval of the same difference when the test rows are drawn anew with replacement and \
the trained models stay (paired bootstrap, 2,000 times). It is the other half: what the choice of test rows alone \
could do. On small test sets it is by far the wider one.
- **Holm**: p corrected over all rows of one table, so that the chance of one false finding in the whole table \
stays at the level that one looks at.
- **Against the authors' folds**: paired only when our folds are theirs (the same official rows in the publisher's \
order, KFold(10, shuffle, seed 42)), otherwise Welch's test; on other rows, or with fewer than 3 folds, there is none.
- **Wins and ranks** are of means, without regard to intervals. Published numbers were made with other settings and \
searches; a model's number differs between publications (Caduceus-Ph on H3: 0.815 in its own paper, 0.794 as \
LDARNet's authors say).
- **Leak-free** test rows share no stretch of bases with a training row on either strand (32 bases unless \
`evaluation.leak_free` says otherwise)."""


def ranking(comparison: Comparison) -> str:
    """Wins and mean rank over the tasks that every arm has; and over those of them that every publication has."""
    values: dict[str, dict[Key, float]] = {arm: {} for arm in comparison.arms}
    for result in comparison.results:
        if mean := result.mean():
            values[result.arm][result.task.key] = mean[0]
    tasks = [task for task in comparison.tasks if all(task.key in by_task for by_task in values.values())]
    if any(result.shortfall for result in comparison.of(tasks).results):
        return _ranked(tasks, values, "our arms alone, since their rows are not the published ones")
    every = {number.source.key for task in tasks for number in _ranked_numbers(task)}
    shared = [task for task in tasks if every == {number.source.key for number in _ranked_numbers(task)}]
    parts = [
        _ranked(chosen, values | _published_models(chosen, besides=comparison.arms), AMONG if every else "our arms")
        for chosen in ([tasks] if shared == tasks else [tasks, shared])
    ]
    return "\n\n".join(filter(None, parts))


AMONG = "our arms and every published model that has them all in the same metric, on the official test rows"


def _ranked(tasks: list[ComparedTask], values: dict[str, dict[Key, float]], among: str) -> str:
    """One ranking; nothing where a single task or model is no ranking."""
    if min(len(tasks), len(values)) < 2:
        return ""
    by_model = {model: [by_task[task.key] for task in tasks] for model, by_task in values.items()}
    rows = [[model, wins, f"{rank:.2f}"] for model, (wins, rank) in wins_and_ranks(by_model).items()]
    names = ", ".join(task.name for task in tasks)
    metrics = " and ".join(dict.fromkeys(METRICS[task.metric].name for task in tasks))
    return f"Over {len(tasks)} tasks by {metrics}, among {among}: {names}.\n\n" + table(
        ["model", "wins", "mean rank"], rows
    )


def _ranked_numbers(task: ComparedTask) -> list[Number]:
    return [number for number in task.published if number.source.ranked]


def _published_models(tasks: list[ComparedTask], besides: list[str]) -> dict[str, dict[Key, float]]:
    """By model and task: of models with a number on each of the tasks, from one source that may be ranked.

    One that has the name of an arm is told apart from it.
    """
    found: dict[str, dict[Key, float]] = {}
    for task in tasks:
        for number in _ranked_numbers(task):
            name = AUTHORS if number.folds else named(number)
            name += ", published" if name in besides else ""
            found.setdefault(name, {})[task.key] = float(np.mean(number.folds)) if number.folds else number.value
    return {name: by_task for name, by_task in found.items() if len(by_task) == len(tasks)}


def against_authors(comparison: Comparison) -> str:
    """Each arm against the authors' folds: paired where they hold the same rows, and not at all on other rows."""
    parts = []
    refused: dict[str, list[str]] = {}
    for arm in comparison.arms:
        rows, apart = [], []
        for result in comparison.results:
            if result.arm != arm or not result.task.authors_folds:
                continue
            if result.shortfall is not None:
                apart.append(f"{result.task.name} {result.shortfall}")
            elif ours := result.values():
                rows.append(_against(result, ours, result.task.authors_folds))
        if rows:
            head = ["task", arm, AUTHORS, "difference", "test", "p", "Holm"]
            parts.append(table(head, with_holm(rows, (5,))))
        if apart:
            refused.setdefault("; ".join(apart), []).append(f"**{arm}**")
    for apart, arms in refused.items():
        parts.append(f"{', '.join(arms)} {'is' if len(arms) == 1 else 'are'} not tested against them: {apart}.")
    return "\n\n".join(parts)


def _against(result: TaskResults, ours: dict[int, float], theirs: dict[int, float]) -> list:
    """Task, both means, their difference, the test, and its p."""
    common = sorted(ours.keys() & theirs.keys())
    means = [cell(interval(list(values.values()))) for values in (ours, theirs)]
    if result.folds_as_published and common:
        if len(common) < len(theirs):
            means[1] += f"; {np.mean([theirs[number] for number in common]):.3f} on the same {len(common)} folds"
        differences = [ours[number] - theirs[number] for number in common]
        p = corrected_t(differences, result.train_rows, result.test_rows)
        kind, test, difference = "paired", f"corrected t, {len(common)} folds", np.mean(differences)
    else:
        p = welch(list(ours.values()), list(theirs.values()))
        kind, test, difference = "unpaired", "Welch", np.mean(list(ours.values())) - np.mean(list(theirs.values()))
    words = f"{kind}, {test if len(ours) >= MIN_FOLDS else 'no test'}"
    return [result.task.name, *means, f"{difference:+.3f}", words, p]
