"""Finished folds of fine-tuning runs by arm and task, as every part of a comparison uses them.

An arm is what a comparison gives a name: one way to make a model, run on one or more tasks.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ldarnet.comparison.published import FOLDS_SOURCE, Number, published
from ldarnet.tasks.metrics import interval
from ldarnet.tasks.registry import Task

Key = tuple[str, str]
"""Suite and name of a task."""


@dataclass(frozen=True)
class FoldScores:
    """One finished fold.

    Attributes:
        file: its `result.json`.
        number: from 0.
        test: metrics on all test rows.
        leak_free: metrics on the leak-free ones; None where they were not scored apart.
        content: all that the file says.
    """

    file: Path
    number: int
    test: dict[str, float | None]
    leak_free: dict[str, float | None] | None
    content: dict[str, Any]


@dataclass(frozen=True, eq=False)
class ComparedTask:
    """A task of a comparison.

    Attributes:
        suite, name: of the task.
        metric: that the task's results are published in; of an own task, the one that the first arm's run chose by.
        official: the task in the registry; None for one of the user's own.
    """

    suite: str
    name: str
    metric: str
    official: Task | None

    @property
    def key(self) -> Key:
        """Suite and name."""
        return self.suite, self.name

    @cached_property
    def published(self) -> list[Number]:
        """Published numbers on this task in its metric."""
        return [number for number in published(*self.key) if number.metric == self.metric]

    @cached_property
    def authors_folds(self) -> dict[int, float]:
        """The folds of LDARNet's authors, by number; none where they are not published."""
        found = [number for number in self.published if number.source.key == FOLDS_SOURCE]
        return dict(enumerate(found[0].folds)) if found else {}


@dataclass(frozen=True)
class TaskResults:
    """All finished folds of an arm on a task, in order; at least one."""

    arm: str
    task: ComparedTask
    folds: tuple[FoldScores, ...]

    @property
    def content(self) -> dict[str, Any]:
        """The first fold's file, for what all folds have in common."""
        return self.folds[0].content

    @property
    def train_rows(self) -> int:
        """Rows that a fold trains on, give or take one."""
        return self.content["rows"]["train"]

    @property
    def test_rows(self) -> int:
        """Rows that it is tested on."""
        return self.content["rows"]["test"]

    def values(self, *, leak_free: bool = False) -> dict[int, float]:
        """The task's metric by fold, on all test rows or the leak-free ones; without folds where it is not defined."""
        scored = {fold.number: (fold.leak_free if leak_free else fold.test) or {} for fold in self.folds}
        metric = self.task.metric
        return {number: value for number, found in scored.items() if (value := found.get(metric)) is not None}

    def mean(self, *, leak_free: bool = False) -> tuple[float, float | None] | None:
        """Mean over folds and half width of its 95% interval (`interval`), if there is a value."""
        values = list(self.values(leak_free=leak_free).values())
        return interval(values) if values else None

    @property
    def same_folds(self) -> tuple[Any, ...]:
        """What two arms must have in common for their folds to hold the same rows."""
        limit = self.content["settings"].get("data.limit")
        drawn = None if limit is None else (limit, self.content["seed"])
        return self.content["data_fingerprint"], drawn, self.content["folds"], *self._cut

    @property
    def _cut(self) -> tuple[int, bool]:
        settings = self.content["settings"]
        return settings.get("folds.seed", 42), settings.get("folds.stratified", False)

    @cached_property
    def shortfall(self) -> str | None:
        """How its rows differ from those of published numbers, which are then not comparable; None if they do not."""
        official = self.task.official
        if official is None or not official.rows:
            return None
        rows, known = self.content["rows"], official.rows
        train = rows["train"] + (0 if "valid" in known else rows["valid"])  # an official validation split is no fold
        if train != known["train"]:
            return f"trained on {train:,} of {known['train']:,} rows"
        if rows["test"] != known["test"]:
            return f"tested on {rows['test']:,} of {known['test']:,} rows"
        return None

    @property
    def folds_as_published(self) -> bool:
        """Whether a fold holds the rows of the authors' fold of its number, given the publisher's order of rows."""
        cut = (self.content["folds"], *self._cut)
        return self.shortfall is None and cut == (len(self.task.authors_folds), 42, False)


@dataclass(frozen=True)
class Comparison:
    """Results of arms on tasks, made once and rendered as a report, a CSV table and a figure.

    Attributes:
        results: arm by arm, in the order in which arms were named.
        tasks: those that any arm has, in the order of the registry, then the user's own.
    """

    results: tuple[TaskResults, ...]
    tasks: tuple[ComparedTask, ...]

    @cached_property
    def arms(self) -> list[str]:
        """The names of the arms."""
        return list(dict.fromkeys(result.arm for result in self.results))

    @cached_property
    def _by_arm_and_task(self) -> dict[tuple[str, Key], TaskResults]:
        return {(result.arm, result.task.key): result for result in self.results}

    def get(self, arm: str, task: ComparedTask) -> TaskResults | None:
        """The results of an arm on a task, if it has any."""
        return self._by_arm_and_task.get((arm, task.key))

    def on(self, task: ComparedTask) -> list[TaskResults]:
        """The results of all arms on a task."""
        return [found for arm in self.arms if (found := self.get(arm, task))]

    def of(self, tasks: Iterable[ComparedTask]) -> "Comparison":
        """The comparison on some of the tasks."""
        kept = tuple(tasks)
        return Comparison(tuple(result for result in self.results if result.task in kept), kept)

    @cached_property
    def suites(self) -> "dict[str, Comparison]":
        """The comparison on each suite's tasks."""
        names = dict.fromkeys(task.suite for task in self.tasks)
        return {name: self.of(task for task in self.tasks if task.suite == name) for name in names}
