"""Sections of the report on arms and published results.

They contain tables of wins and mean ranks, and p-values of tests against the authors' folds.
"""

import numpy as np

from ldarnet.comparison.formatting import AUTHORS, cell, model_label, table, with_holm
from ldarnet.comparison.published import PublishedResult
from ldarnet.comparison.results import ComparedTask, Comparison, Key, TaskResults
from ldarnet.comparison.statistics import corrected_t, welch, wins_and_ranks
from ldarnet.tasks.metrics import MIN_FOLDS, interval, metric_name

HOW_TO_READ = """\
- **Intervals** (95%, Student's t over folds) reflect variation in training rows, order and initialization. Folds \
share most of their training rows, so the intervals are too narrow for new training rows; and all folds share the \
test rows, so they do not cover other test rows. With fewer than 3 folds, or if all folds have the same value, there \
is no interval; the figure and `results.csv` show every fold. The ± of a published result may have another meaning, \
which is stated above its table.
- **Corrected t** (Nadeau and Bengio 2003): the variance of the differences between folds is multiplied by 1/k + \
(test rows / training rows) instead of 1/k, because folds are not independent. A small p-value says that with another \
order, another initialization and other held-out training rows, one arm would still be ahead of the other on these \
test rows. It does not generalize to other training rows (folds share most of theirs and vary far less than new \
samples would), other test rows, other settings or another pretraining. The correction was derived for random \
training and test rows in each split; here the test rows are fixed, so it guards against p-values that are too small \
but is not exact.
- **Signed rank** (Wilcoxon) assumes independent folds. With k folds, p cannot be smaller than 2 / 2^k.
- **95% over test rows**: interval of the same difference when the test rows are resampled with replacement and the \
trained models are fixed (paired bootstrap, 2,000 resamples). It measures how much the difference depends on the \
choice of test rows, which the tests over folds do not. On small test sets it is by far the wider interval.
- **Holm**: p-values corrected over all rows of one table, which bounds the probability of a single false positive in \
the whole table.
- **Authors' folds** are paired with the folds of an arm only if both have the same rows (the official rows in the \
publisher's order, KFold(10, shuffle, seed 42)); otherwise Welch's test is used. There is no test on other rows or for \
fewer than 3 folds.
- **Wins and ranks** use means and ignore intervals. Published models were trained with other settings and searches, \
and the value of one model differs between publications (Caduceus-Ph on H3: 0.815 in its own paper, 0.794 as reported \
by the LDARNet authors).
- **Leak-free** test rows share no k-mer with a training row on either strand (k = 32 by default, see \
`evaluation.leak_free`)."""
ALL_MODELS = "our arms and every published model with all of these tasks in the same metric, on the official test rows"


def ranking_section(comparison: Comparison) -> str:
    """Tables of wins and mean ranks of arms and published models.

    The first table covers the tasks on which every arm has a result. If some ranked publication has no result on one
    of these tasks, a second table covers the tasks on which every arm and every ranked publication has a result.

    If an arm was trained or tested on rows other than the official ones, there is one table, without published models.
    """
    values: dict[str, dict[Key, float]] = {arm: {} for arm in comparison.arms}
    for result in comparison.results:
        if mean := result.mean():
            values[result.arm][result.task.key] = mean[0]
    tasks = [task for task in comparison.tasks if all(task.key in by_task for by_task in values.values())]
    if any(result.row_mismatch for result in comparison.of(tasks).results):
        return _ranking(tasks, values, "our arms only, since their rows differ from the published ones")
    every = {number.source.key for task in tasks for number in _ranked_results(task)}
    shared = [task for task in tasks if every == {number.source.key for number in _ranked_results(task)}]
    parts = [
        _ranking(subset, values | _published_models(subset, comparison.arms), ALL_MODELS if every else "our arms")
        for subset in ([tasks] if shared == tasks else [tasks, shared])
    ]
    return "\n\n".join(filter(None, parts))


def _ranking(tasks: list[ComparedTask], values: dict[str, dict[Key, float]], among: str) -> str:
    """Table of wins and mean ranks, or an empty string if there are fewer than two tasks or fewer than two models."""
    if min(len(tasks), len(values)) < 2:
        return ""
    by_model = {model: [by_task[task.key] for task in tasks] for model, by_task in values.items()}
    rows = [[model, wins, f"{rank:.2f}"] for model, (wins, rank) in wins_and_ranks(by_model).items()]
    names = ", ".join(task.name for task in tasks)
    metrics = " and ".join(dict.fromkeys(metric_name(task.metric) for task in tasks))
    return f"Over {len(tasks)} tasks by {metrics}, among {among}: {names}.\n\n" + table(
        ["model", "wins", "mean rank"], rows
    )


def _ranked_results(task: ComparedTask) -> list[PublishedResult]:
    return [number for number in task.published if number.source.ranked]


def _published_models(tasks: list[ComparedTask], arms: list[str]) -> dict[str, dict[Key, float]]:
    """Model -> task -> value, from ranked publications; only models that have a value on every task.

    A model with the same name as an arm gets the suffix `, published`.
    """
    found: dict[str, dict[Key, float]] = {}
    for task in tasks:
        for number in _ranked_results(task):
            name = AUTHORS if number.folds else model_label(number)
            name += ", published" if name in arms else ""
            found.setdefault(name, {})[task.key] = float(np.mean(number.folds)) if number.folds else number.value
    return {name: by_task for name, by_task in found.items() if len(by_task) == len(tasks)}


def authors_section(comparison: Comparison) -> str:
    """Compare each arm with the folds that the LDARNet authors published.

    The test is paired if fold k of the arm has the same rows as fold k of the authors, and unpaired otherwise. Arms
    whose rows differ from the official ones are listed, but not tested.
    """
    parts = []
    refused: dict[str, list[str]] = {}
    for arm in comparison.arms:
        rows, mismatches = [], []
        for result in comparison.results:
            if result.arm != arm or not result.task.authors_folds:
                continue
            if result.row_mismatch is not None:
                mismatches.append(f"{result.task.name} {result.row_mismatch}")
            elif ours := result.values():
                rows.append(_against_authors(result, ours, result.task.authors_folds))
        if rows:
            head = ["task", arm, AUTHORS, "difference", "test", "p", "Holm"]
            parts.append(table(head, with_holm(rows, (5,))))
        if mismatches:
            refused.setdefault("; ".join(mismatches), []).append(f"**{arm}**")
    for reason, arms in refused.items():
        parts.append(f"Not tested against the authors' folds: {', '.join(arms)} ({reason}).")
    return "\n\n".join(parts)


def _against_authors(result: TaskResults, ours: dict[int, float], theirs: dict[int, float]) -> list:
    """Table row: task, mean of the arm, mean of the authors, difference, name of the test, p-value."""
    common = sorted(ours.keys() & theirs.keys())
    means = [cell(interval(list(values.values()))) for values in (ours, theirs)]
    if result.has_published_folds and common:
        if len(common) < len(theirs):
            means[1] += f"; {np.mean([theirs[number] for number in common]):.3f} on the same {len(common)} folds"
        differences = [ours[number] - theirs[number] for number in common]
        p = corrected_t(differences, result.train_rows, result.test_rows)
        kind, test, difference = "paired", f"corrected t, {len(common)} folds", np.mean(differences)
    else:
        p = welch(list(ours.values()), list(theirs.values()))
        kind, test, difference = "unpaired", "Welch", np.mean(list(ours.values())) - np.mean(list(theirs.values()))
    description = f"{kind}, {test if len(ours) >= MIN_FOLDS else 'no test'}"
    return [result.task.name, *means, f"{difference:+.3f}", description, p]
