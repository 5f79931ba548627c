"""Pairwise section of a comparison report: each pair of arms, over all tasks and task by task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ldarnet.comparison.formatting import table, with_holm
from ldarnet.comparison.resampling import Predictions, interval_of_difference, read_predictions
from ldarnet.comparison.results import Comparison, FoldScores, TaskResults
from ldarnet.comparison.statistics import corrected_t, signed_rank
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.tasks.metrics import MIN_FOLDS, find_metric, metric_name
from ldarnet.tasks.resampling import bootstrap

NO_TEST = f"Pairs of arms with fewer than {MIN_FOLDS} common folds are not tested over folds."
OVER_TASKS = (
    "Mean difference: mean over tasks of the mean difference over folds. In parentheses: on how many tasks the 95% "
    "confidence interval (test rows resampled) excludes 0."
)


@dataclass(frozen=True)
class Pair:
    """Differences between two arms on a task; both arms have the same rows in each fold.

    Attributes:
        arms: names of the two arms, as `first - second`.
        task: name of the task.
        metric: metric that is compared.
        differences: value of the first arm minus value of the second, for each fold that both arms have finished.
        over_test_rows: 95% confidence interval of the mean difference, from bootstrap resamples of the test rows; None
            if predictions are missing or the metric cannot be resampled.
        p: p-values of the corrected t-test and the signed-rank test.
    """

    arms: str
    task: str
    metric: str
    differences: Sequence[float]
    over_test_rows: tuple[float, float] | None
    p: tuple[float | None, float | None]

    @property
    def mean(self) -> float:
        """Mean difference over folds."""
        return float(np.mean(self.differences))

    @property
    def excludes_zero(self) -> bool:
        """Whether the confidence interval from resampled test rows excludes 0."""
        return self.over_test_rows is not None and not self.over_test_rows[0] <= 0 <= self.over_test_rows[1]


class Resamples:
    """Cache of bootstrap resamples, computed once per arm, task and set of folds.

    Args:
        advance: reports progress; called with K each time the test rows of K folds have been resampled.
    """

    def __init__(self, advance: Callable[[int], object]) -> None:
        self._advance = advance
        self._cache: dict[tuple[object, ...], tuple[bytes, np.ndarray] | None] = {}

    def interval(self, left: TaskResults, right: TaskResults, folds: list[int]) -> tuple[float, float] | None:
        """95% bootstrap confidence interval of the difference between two arms on `folds`.

        None if an arm cannot be resampled.
        """
        ours, theirs = self._get(left, folds), self._get(right, folds)
        if ours is None or theirs is None:
            return None
        _check_same_rows(left.folds[0], ours[0], right.folds[0], theirs[0])
        return interval_of_difference(ours[1], theirs[1])

    def _get(self, result: TaskResults, folds: list[int]) -> tuple[bytes, np.ndarray] | None:
        key = (result.arm, result.task.key, *folds)
        if key not in self._cache:
            self._cache[key] = _resample(result, folds)
            self._advance(len(folds))
        return self._cache[key]


def _resample(result: TaskResults, folds: list[int]) -> tuple[bytes, np.ndarray] | None:
    """Resample the test rows of the selected folds.

    Returns:
        SHA-256 of the names of the test rows, and the mean metric over folds on each resample (R,). None if predictions
        are missing or the metric cannot be resampled.
    """
    metric = find_metric(result.task.metric)
    if metric is None or not metric.resampled:
        return None
    selected = [fold for fold in result.folds if fold.number in folds]
    found: list[Predictions] = []
    for fold in selected:
        predictions = read_predictions(fold, probabilities=metric.from_weights is not None)
        if predictions is None:
            return None
        found.append(predictions)
        _check_same_rows(selected[0], found[0].rows, fold, predictions.rows)
    outputs = [one.predicted if one.probabilities is None else one.probabilities for one in found]
    return found[0].rows, bootstrap(found[0].labels, outputs, result.task.metric, rows_N=found[0].row_of)


def _check_same_rows(first: FoldScores, rows: bytes, other: FoldScores, other_rows: bytes) -> None:
    """Check that two folds have the same test rows in the same order.

    Raises:
        UserError: the test rows or their order differ.
    """
    if rows != other_rows:
        ours, theirs = (fold.file.with_name(run_files.PREDICTIONS) for fold in (first, other))
        raise UserError(
            f"{ours} and {theirs} have different test rows, so one of them is damaged; delete the fold folders of both "
            "files and fine-tune these folds again"
        )


def pairwise_section(comparison: Comparison, advance: Callable[[int], object]) -> str:
    """Compare each pair of arms that have the same rows and folds; list the other pairs.

    Args:
        comparison: results to compare.
        advance: reports progress; called with K each time the test rows of K folds have been resampled.
    """
    found, refused = _all_pairs(comparison, advance)
    parts = []
    if len({pair.task for pair in found}) > 1:
        opening = f"<details><summary>Task by task: {len(found)} rows</summary>"
        parts += [OVER_TASKS, _over_tasks(found), opening, _by_task(found), "</details>"]
    elif found:
        parts.append(_by_task(found))
    if any(len(pair.differences) < MIN_FOLDS for pair in found):
        parts.append(NO_TEST)
    if refused:
        parts.append("\n".join(refused))
    return "\n\n".join(parts)


def _all_pairs(comparison: Comparison, advance: Callable[[int], object]) -> tuple[list[Pair], list[str]]:
    """Pair all arms on all tasks.

    Returns:
        The pairs (ordered by arms, then by task) and a list of text lines. Each line names two arms and the tasks on
        which they cannot be paired because their rows or folds differ.
    """
    resamples = Resamples(advance)
    found, refused = [], []
    for ours, theirs in combinations(comparison.arms, 2):
        paired = {
            task.name: _pair(left, right, resamples)
            for task in comparison.tasks
            if (left := comparison.get(ours, task)) and (right := comparison.get(theirs, task))
        }
        found += [pair for pair in paired.values() if pair is not None]
        if unpaired := ", ".join(task for task, pair in paired.items() if pair is None):
            refused.append(f"- **{ours} - {theirs}** not paired on {unpaired}: different rows or folds.")
    return found, refused


def _over_tasks(found: list[Pair]) -> str:
    """Table over all tasks, with one row per metric and pair of arms."""
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in found:
        groups.setdefault((pair.arms, pair.metric), []).append(pair)
    head = ["arms", "metric", "tasks", "mean difference", "range", "better on", "worse on"]
    rows = []
    for (arms, metric), group in groups.items():
        means = [pair.mean for pair in group]
        sides = ([p for p in group if p.mean > 0], [p for p in group if p.mean < 0])
        extent = f"{min(means):+.3f} to {max(means):+.3f}"
        rows.append([arms, metric_name(metric), len(group), f"{np.mean(means):+.3f}", extent, *map(_count, sides)])
    return table(head, rows)


def _count(side: list[Pair]) -> str:
    """Number of tasks; in parentheses, on how many of them the confidence interval of the difference excludes 0."""
    excluding = sum(pair.excludes_zero for pair in side)
    return f"{len(side)} ({excluding})" if any(pair.over_test_rows for pair in side) else str(len(side))


def _by_task(found: list[Pair]) -> str:
    """Table with one row per task and pair of arms. If any pair has enough folds, there are columns for p-values."""
    head, rows = ["arms", "task", "folds", "difference", "95% over test rows"], []
    for pair in found:
        extent = "-" if pair.over_test_rows is None else "{:+.3f} to {:+.3f}".format(*pair.over_test_rows)
        rows.append([pair.arms, pair.task, len(pair.differences), f"{pair.mean:+.3f}", extent])
    if all(len(pair.differences) < MIN_FOLDS for pair in found):
        return table(head, rows)
    tested = [[*row, *pair.p] for row, pair in zip(rows, found, strict=True)]
    return table([*head, "corrected t: p", "Holm", "signed rank: p", "Holm"], with_holm(tested, (5, 6)))


def _pair(left: TaskResults, right: TaskResults, resamples: Resamples) -> Pair | None:
    """Pair two arms on a task; None if they share no fold."""
    ours, theirs = left.values(), right.values()
    numbers = sorted(ours.keys() & theirs.keys()) if left.fold_identity == right.fold_identity else []
    if not numbers:
        return None
    differences = [ours[number] - theirs[number] for number in numbers]
    return Pair(
        arms=f"{left.arm} - {right.arm}",
        task=left.task.name,
        metric=left.task.metric,
        differences=differences,
        over_test_rows=resamples.interval(left, right, numbers),
        p=(corrected_t(differences, left.train_rows, left.test_rows), signed_rank(differences)),
    )
