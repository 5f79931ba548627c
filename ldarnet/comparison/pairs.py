"""The section of a comparison that holds each two arms against each other: over all tasks, and task by task."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ldarnet.comparison.resampling import interval_of_difference, read_predictions, redrawn
from ldarnet.comparison.results import Comparison, TaskResults
from ldarnet.comparison.statistics import corrected_t, signed_rank
from ldarnet.comparison.tables import table, with_holm
from ldarnet.tasks.metrics import METRICS, MIN_FOLDS

NO_TEST = f"There is no test over folds where two arms share fewer than {MIN_FOLDS}."
OVER_TASKS = (
    "Mean differences of the tasks' means. In brackets: on how many of these tasks the interval over test rows leaves "
    "out 0."
)


@dataclass(frozen=True)
class Pair:
    """Two arms on the same rows and folds of a task.

    Attributes:
        arms: both names, the one that the difference is taken from first.
        task, metric: what is compared, by what.
        differences: of the folds that both have; at least one.
        over_test_rows: 95% interval of their mean when test rows are drawn anew; None without predictions.
        p: corrected t, signed rank.
    """

    arms: str
    task: str
    metric: str
    differences: Sequence[float]
    over_test_rows: tuple[float, float] | None
    p: tuple[float | None, float | None]

    @property
    def mean(self) -> float:
        """Of the differences."""
        return float(np.mean(self.differences))

    @property
    def is_beyond_test_rows(self) -> bool:
        """Whether the interval over test rows leaves out 0."""
        return self.over_test_rows is not None and not self.over_test_rows[0] <= 0 <= self.over_test_rows[1]


class Draws:
    """The metrics of arms when test rows are drawn anew: made once for each, however many it is held against."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[list[str], np.ndarray] | None] = {}

    def interval(self, left: TaskResults, right: TaskResults, folds: list[int]) -> tuple[float, float] | None:
        """Of the difference of two arms on some folds; None where one of them has not kept its predictions."""
        ours, theirs = self._of(left, folds), self._of(right, folds)
        if ours is None or theirs is None:
            return None
        assert ours[0] == theirs[0], "the same rows in the same order"
        return interval_of_difference(ours[1], theirs[1])

    def _of(self, result: TaskResults, folds: list[int]) -> tuple[list[str], np.ndarray] | None:
        key = (result.arm, result.task.key, *folds)
        if key not in self._known:
            self._known[key] = _redrawn(result, folds)
        return self._known[key]


def _redrawn(result: TaskResults, folds: list[int]) -> tuple[list[str], np.ndarray] | None:
    """Names of the test rows, and the metric over draws of them."""
    if METRICS[result.task.metric].from_confusion is None:
        return None
    chosen = [fold for fold in result.folds if fold.number in folds]
    read = [read_predictions(fold.file.parent, result.content["classes"]) for fold in chosen]
    found = [predictions for predictions in read if predictions is not None]
    if len(found) < len(folds):
        return None
    names, labels, _ = found[0]
    assert all(other == names for other, _, _ in found), "the same rows in the same order"
    return names, redrawn(labels, np.stack([predicted for _, _, predicted in found]), result.task.metric)


def pairs(comparison: Comparison) -> str:
    """Every two arms on the same rows and folds, over all tasks and task by task; and which are not paired."""
    found, refused = _all_pairs(comparison)
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


def _all_pairs(comparison: Comparison) -> tuple[list[Pair], list[str]]:
    """The pairs in order of arms, then of tasks; and a line on each two arms that are not paired on all tasks."""
    draws = Draws()
    found, refused = [], []
    for ours, theirs in combinations(comparison.arms, 2):
        paired = {
            task.name: _pair(left, right, draws)
            for task in comparison.tasks
            if (left := comparison.get(ours, task)) and (right := comparison.get(theirs, task))
        }
        found += [pair for pair in paired.values() if pair is not None]
        if apart := ", ".join(task for task, pair in paired.items() if pair is None):
            refused.append(f"- **{ours} - {theirs}** are not paired on {apart}: other rows, or other folds.")
    return found, refused


def _over_tasks(found: list[Pair]) -> str:
    """A line for each two arms and metric."""
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in found:
        groups.setdefault((pair.arms, pair.metric), []).append(pair)
    head = ["arms", "metric", "tasks", "mean difference", "smallest to largest", "ahead on", "behind on"]
    rows = []
    for (arms, metric), group in groups.items():
        means = [pair.mean for pair in group]
        sides = ([p for p in group if p.mean > 0], [p for p in group if p.mean < 0])
        spread = f"{min(means):+.3f} to {max(means):+.3f}"
        rows.append([arms, METRICS[metric].name, len(group), f"{np.mean(means):+.3f}", spread, *map(_counted, sides)])
    return table(head, rows)


def _counted(side: list[Pair]) -> str:
    """How many tasks, and on how many of them test rows alone would not make the difference."""
    beyond = sum(pair.is_beyond_test_rows for pair in side)
    return f"{len(side)} ({beyond})" if any(pair.over_test_rows for pair in side) else str(len(side))


def _by_task(found: list[Pair]) -> str:
    """A line for each two arms and task, with the tests over folds where there are folds enough."""
    head, rows = ["arms", "task", "folds", "difference", "over test rows"], []
    for pair in found:
        between = "-" if pair.over_test_rows is None else "{:+.3f} to {:+.3f}".format(*pair.over_test_rows)
        rows.append([pair.arms, pair.task, len(pair.differences), f"{pair.mean:+.3f}", between])
    if all(len(pair.differences) < MIN_FOLDS for pair in found):
        return table(head, rows)
    tested = [[*row, *pair.p] for row, pair in zip(rows, found, strict=True)]
    return table([*head, "corrected t: p", "Holm", "signed rank: p", "Holm"], with_holm(tested, (5, 6)))


def _pair(left: TaskResults, right: TaskResults, draws: Draws) -> Pair | None:
    """Two arms on a task; None where they have no fold in common."""
    ours, theirs = left.values(), right.values()
    numbers = sorted(ours.keys() & theirs.keys()) if left.same_folds == right.same_folds else []
    if not numbers:
        return None
    differences = [ours[number] - theirs[number] for number in numbers]
    return Pair(
        arms=f"{left.arm} - {right.arm}",
        task=left.task.name,
        metric=left.task.metric,
        differences=differences,
        over_test_rows=draws.interval(left, right, numbers),
        p=(corrected_t(differences, left.train_rows, left.test_rows), signed_rank(differences)),
    )
