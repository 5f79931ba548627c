"""Finished folds of fine-tuning runs, gathered by arm and task, and what may be compared with what.

An arm is what a comparison gives a name: one way to make a model, run on one or more tasks.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ldarnet.comparison.published import FOLDS_SOURCE, Number, published
from ldarnet.errors import UserError
from ldarnet.finetuning.results import RESULT
from ldarnet.io.files import read_errors, read_json
from ldarnet.tasks.metrics import interval
from ldarnet.tasks.registry import Task, all_tasks

SWEEP_REPORT = "sweep.json"
"""In the folder of a sweep: for each task, what was chosen and where its results are."""

_OF_A_RUN = ("arm", "checkpoint_sha256", "mode", "metric", "folds", "seed", "data_fingerprint", "classes")
"""What all folds of a run have in common, beside their settings."""
_NEEDED = (*_OF_A_RUN, "task", "suite", "fold", "settings", "rows", "test", "test_leak_free")


@dataclass(frozen=True)
class Fold:
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


@dataclass(frozen=True)
class TaskResults:
    """All finished folds of an arm on a task, in order.

    Attributes:
        arm: its name in the comparison.
        folds: at least one.
        metric: that the task's results are published in; of an own task, the one that the first arm's run chose by.
        official: the task in the registry; None for one of the user's own.
        place: of the task in the registry; behind all others for one of the user's own.
    """

    arm: str
    folds: tuple[Fold, ...]
    metric: str
    official: Task | None
    place: int

    @property
    def content(self) -> dict[str, Any]:
        """The first fold's file, for what all folds have in common."""
        return self.folds[0].content

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.content["task"]

    @property
    def suite(self) -> str:
        """Suite of the task."""
        return self.content["suite"]

    @property
    def key(self) -> tuple[str, str]:
        """Suite and task."""
        return self.suite, self.task

    @property
    def train_rows(self) -> int:
        """Rows that a fold trains on, give or take one."""
        return self.content["rows"]["train"]

    @property
    def test_rows(self) -> int:
        """Rows that it is tested on."""
        return self.content["rows"]["test"]

    def values(self, metric: str, *, leak_free: bool = False) -> dict[int, float]:
        """A metric by fold, on all test rows or the leak-free ones; a fold where it is not defined is left out."""
        scored = {fold.number: (fold.leak_free if leak_free else fold.test) or {} for fold in self.folds}
        return {number: value for number, found in scored.items() if (value := found.get(metric)) is not None}

    def mean(self, metric: str, *, leak_free: bool = False) -> tuple[float, float | None] | None:
        """Mean over folds and half width of its 95% interval (`interval`), if there is a value."""
        values = list(self.values(metric, leak_free=leak_free).values())
        return interval(values) if values else None

    @property
    def same_folds(self) -> tuple[Any, ...]:
        """What two arms must have in common for their folds to hold the same rows."""
        settings = self.content["settings"]
        limit = settings.get("data.limit")
        chosen = None if limit is None else (limit, self.content["seed"])
        return self.content["data_fingerprint"], chosen, self.content["folds"], *self._cut

    @property
    def _cut(self) -> tuple[int, bool]:
        settings = self.content["settings"]
        return settings.get("folds.seed", 42), settings.get("folds.stratified", False)

    @property
    def shortfall(self) -> str | None:
        """How its rows differ from those of published numbers, which are then not comparable; None if they do not."""
        if self.official is None or not self.official.rows:
            return None
        rows, known = self.content["rows"], self.official.rows
        train = rows["train"] + (0 if "valid" in known else rows["valid"])  # an official validation split is no fold
        if train != known["train"]:
            return f"trained on {train:,} of {known['train']:,} rows"
        if rows["test"] != known["test"]:
            return f"tested on {rows['test']:,} of {known['test']:,} rows"
        return None

    def published(self) -> list[Number]:
        """Published numbers on this task in its metric."""
        return [number for number in published(*self.key) if number.metric == self.metric]

    def authors_folds(self) -> dict[int, float]:
        """The folds of LDARNet's authors, by number; none where they are not published."""
        found = [number for number in self.published() if number.source.key == FOLDS_SOURCE]
        return dict(enumerate(found[0].folds)) if found else {}

    @property
    def folds_as_published(self) -> bool:
        """Whether a fold holds the rows of the authors' fold of its number, given the publisher's order of rows."""
        cut = (self.content["folds"], *self._cut)
        return self.shortfall is None and cut == (len(self.authors_folds()), 42, False)


def find_results(folder: Path) -> list[Path]:
    """The `result.json` of every finished fold of the runs in a folder, at any depth; of a sweep, of those it chose.

    Raises:
        UserError: there is none.
    """
    if (sweep := folder / SWEEP_REPORT).is_file():
        tasks = read_json(sweep, "run the same sweep again").get("tasks", {})
        found = [folder / path for task in tasks.values() for path in task["results"]]
    else:
        found = sorted(folder.glob(f"**/fold*/{RESULT}"))
    if not found:
        raise UserError(f"{folder}: no finished fold in it (fold*/{RESULT}); name the folder of a fine-tuning run")
    return found


def read_arms(arms: Mapping[str, Sequence[Path]]) -> list[TaskResults]:
    """Read the finished folds of each arm, its tasks in the order of the registry and then the user's own.

    Raises:
        UserError: a file cannot be read, there are two of one fold, folds of a task differ in more than their rows, or
            arms have other rows of an own task.
    """
    official = {(task.suite, task.name): task for task in all_tasks().values()}
    place = {key: number for number, key in enumerate(official)}
    metrics = {key: task.metric for key, task in official.items()}
    results = []
    begun: dict[tuple[str, str], tuple[str, Fold]] = {}
    for arm, files in arms.items():
        by_task: defaultdict[tuple[str, str], list[Fold]] = defaultdict(list)
        for file in files:
            fold = _read(file)
            by_task[fold.content["suite"], fold.content["task"]].append(fold)
        for key, found in sorted(by_task.items(), key=lambda item: (place.get(item[0], len(place)), item[0])):
            folds = sorted(found, key=lambda fold: fold.number)
            _check_one_run(arm, folds)
            metric = metrics.setdefault(key, folds[0].content["metric"])
            _check_same_data(folds[0], begun.setdefault(key, (arm, folds[0])), arm, key in official)
            results.append(TaskResults(arm, tuple(folds), metric, official.get(key), place.get(key, len(place))))
    return results


def _read(file: Path) -> Fold:
    with read_errors(file):
        text = file.read_text(encoding="utf-8")
    again = "delete it and run the same command again"
    try:
        content = json.loads(text)
        missing = [key for key in _NEEDED if key not in content]
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: damaged, not a result ({error}); {again}") from None
    if missing:
        raise UserError(f"{file}: damaged, without {', '.join(missing)}; {again}")
    if content["test"] is None:
        raise UserError(f"{file}: the task {content['task']} has no test rows to compare on; give data.test")
    return Fold(file, content["fold"], content["test"], content["test_leak_free"], content)


def _check_one_run(arm: str, folds: list[Fold]) -> None:
    """Check that these are different folds of runs that differ in nothing else.

    Raises:
        UserError: they are not.
    """
    one_each = "give each run a NAME=FOLDER of its own"
    first = folds[0]
    for before, fold in pairwise(folds):
        if before.number == fold.number:
            raise UserError(f"{fold.file} and {before.file} are the same fold of {first.content['task']}; {one_each}")
        ours, theirs = (one.content["settings"] | {key: one.content[key] for key in _OF_A_RUN} for one in (first, fold))
        if other := sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key)):
            raise UserError(
                f"{fold.file} and {first.file} differ in {', '.join(other)}: not one arm {arm!r}; {one_each}"
            )


def _check_same_data(fold: Fold, first: tuple[str, Fold], arm: str, official: bool) -> None:
    """Check that two arms on a task of the user's own, which has but the name of a file, were given the same rows.

    Raises:
        UserError: they were not.
    """
    before, other = first
    if not official and fold.content["data_fingerprint"] != other.content["data_fingerprint"]:
        raise UserError(
            f"{fold.file} and {other.file} are both of a task called {fold.content['task']!r}, but {arm!r} and "
            f"{before!r} were given other rows; compare runs with the same data.train and data.test, or call their "
            "tasks by other names (task=NAME, in another run.dir)"
        )
