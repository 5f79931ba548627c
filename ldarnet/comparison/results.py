"""Data model of a comparison: finished folds of fine-tuning runs, grouped by arm and task.

An arm is a named entry of a comparison: one way to build a model, run on one or more tasks.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ldarnet.comparison.published import FOLDS_SOURCE, PublishedResult, published
from ldarnet.finetuning.records import FoldRecord, Scores
from ldarnet.tasks.metrics import interval
from ldarnet.tasks.registry import Task

Key = tuple[str, str]
"""Suite and name of a task."""


@dataclass(frozen=True)
class FoldScores:
    """Metrics of one finished fold.

    Attributes:
        file: path of the fold's `result.json`.
        number: fold number, from 0.
        test: metrics on all test rows.
        leak_free: metrics on the leak-free test rows; None if not computed.
        content: parsed content of `file`.
    """

    file: Path
    number: int
    test: Scores
    leak_free: Scores | None
    content: FoldRecord


@dataclass(frozen=True, eq=False)
class ComparedTask:
    """A task of a comparison.

    Attributes:
        metric: metric of the task's published results; for user-provided tasks, the selection metric of the first arm
            that has results on the task.
        official: entry in the task registry; None for user-provided tasks.
    """

    suite: str
    name: str
    metric: str
    official: Task | None

    @property
    def key(self) -> Key:
        """Suite and name of the task."""
        return self.suite, self.name

    @cached_property
    def published(self) -> list[PublishedResult]:
        """Published results on this task that use `metric`."""
        return [number for number in published(*self.key) if number.metric == self.metric]

    @cached_property
    def authors_folds(self) -> dict[int, float]:
        """Values of the LDARNet authors' folds, by fold number; empty if not published."""
        found = [number for number in self.published if number.source.key == FOLDS_SOURCE]
        return dict(enumerate(found[0].folds)) if found else {}


@dataclass(frozen=True)
class TaskResults:
    """Results of an arm on a task: one or more finished folds, sorted by fold number."""

    arm: str
    task: ComparedTask
    folds: tuple[FoldScores, ...]

    @property
    def content(self) -> FoldRecord:
        """Content of the first fold's `result.json`. Use it only for fields that all folds share."""
        return self.folds[0].content

    @property
    def train_rows(self) -> int:
        """Number of training rows of the first fold."""
        return self.content["rows"]["train"]

    @property
    def test_rows(self) -> int:
        """Number of test rows, which are the same in all folds."""
        return self.content["rows"]["test"]

    def values(self, *, leak_free: bool = False) -> dict[int, float]:
        """Value of the task's metric by fold number; folds without a value are omitted.

        Args:
            leak_free: use the leak-free test rows only.
        """
        scores = {fold.number: (fold.leak_free if leak_free else fold.test) or {} for fold in self.folds}
        metric = self.task.metric
        return {number: value for number, found in scores.items() if (value := found.get(metric)) is not None}

    def mean(self, *, leak_free: bool = False) -> tuple[float, float | None] | None:
        """Mean over folds and half-width of its 95% confidence interval; None if no fold has a value.

        The half-width is None if there is no interval (see `interval`).
        """
        values = list(self.values(leak_free=leak_free).values())
        return interval(values) if values else None

    @property
    def fold_identity(self) -> tuple[Any, ...]:
        """Values that determine the rows of each fold; two arms are paired only if these values are equal."""
        limit = self.content["settings"].get("data.limit")
        subset = None if limit is None else (str(limit), self.content["seed"])
        return self.content["data_fingerprint"], subset, self.content["folds"], *self._split

    @property
    def _split(self) -> tuple[str, str]:
        settings = self.content["settings"]
        return str(settings.get("folds.seed", 42)), str(settings.get("folds.stratified", False))

    @cached_property
    def row_mismatch(self) -> str | None:
        """Reason why published results are not comparable, such as `trained on 900 of 1,000 rows`.

        None if the numbers of training and test rows equal the official ones, or if the official ones are unknown.
        """
        official = self.task.official
        if official is None or not official.rows:
            return None
        rows, known = self.content["rows"], official.rows
        train = rows["train"] + (0 if "valid" in known else rows["valid"])  # "train" excludes an official "valid"
        if train != known["train"]:
            return f"trained on {train:,} of {known['train']:,} rows"
        if rows["test"] != known["test"]:
            return f"tested on {rows['test']:,} of {known['test']:,} rows"
        return None

    @property
    def has_published_folds(self) -> bool:
        """Whether every fold has the same rows as the authors' fold with the same number.

        Assumes that the rows are in the order in which they were published.
        """
        split = (self.content["folds"], *self._split)
        return self.row_mismatch is None and split == (len(self.task.authors_folds), "42", "False")


@dataclass(frozen=True)
class Comparison:
    """Results of several arms on several tasks; the report, the CSV table and the figure are rendered from it.

    Attributes:
        results: results, grouped by arm; arms are in the order in which they were passed.
        tasks: tasks of all arms, in registry order, followed by user-provided tasks.
    """

    results: tuple[TaskResults, ...]
    tasks: tuple[ComparedTask, ...]

    @cached_property
    def arms(self) -> list[str]:
        """Names of the arms."""
        return list(dict.fromkeys(result.arm for result in self.results))

    @cached_property
    def _by_arm_and_task(self) -> dict[tuple[str, Key], TaskResults]:
        return {(result.arm, result.task.key): result for result in self.results}

    def get(self, arm: str, task: ComparedTask) -> TaskResults | None:
        """Results of an arm on a task; None if the arm has no results on it."""
        return self._by_arm_and_task.get((arm, task.key))

    def on(self, task: ComparedTask) -> list[TaskResults]:
        """Results of all arms on a task."""
        return [found for arm in self.arms if (found := self.get(arm, task))]

    def of(self, tasks: Iterable[ComparedTask]) -> "Comparison":
        """The comparison restricted to `tasks`."""
        kept = tuple(tasks)
        return Comparison(tuple(result for result in self.results if result.task in kept), kept)

    def renamed(self, rename: Callable[[str], str]) -> "Comparison":
        """Copy of the comparison in which `rename` is applied to the names of arms, suites and tasks."""
        tasks = {task.key: replace(task, suite=rename(task.suite), name=rename(task.name)) for task in self.tasks}
        results = (replace(one, arm=rename(one.arm), task=tasks[one.task.key]) for one in self.results)
        return Comparison(tuple(results), tuple(tasks.values()))

    @cached_property
    def suites(self) -> "dict[str, Comparison]":
        """One comparison per suite, restricted to the tasks of the suite."""
        names = dict.fromkeys(task.suite for task in self.tasks)
        return {name: self.of(task for task in self.tasks if task.suite == name) for name in names}
