"""Read the finished folds of fine-tuning runs into a comparison, and check what may be compared with what."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from ldarnet.comparison.results import ComparedTask, Comparison, FoldScores, Key, TaskResults
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import read_errors, read_json
from ldarnet.tasks.registry import all_tasks

_OF_A_RUN = ("arm", "checkpoint_sha256", "mode", "metric", "folds", "seed", "data_fingerprint", "classes")
"""What all folds of a run have in common, beside their settings."""
_NEEDED = (*_OF_A_RUN, "task", "suite", "fold", "settings", "rows", "test", "test_leak_free")


def find_results(folder: Path) -> list[Path]:
    """The `result.json` of every finished fold of the runs in a folder, at any depth; of a sweep, of those it chose.

    Raises:
        UserError: there is none.
    """
    if (sweep := folder / run_files.SWEEP_REPORT).is_file():
        tasks = read_json(sweep, "run the same sweep again").get("tasks", {})
        found = [folder / path for task in tasks.values() for path in task["results"]]
    else:
        found = sorted(folder.glob(f"**/fold*/{run_files.RESULT}"))
    if not found:
        raise UserError(
            f"{folder}: no finished fold in it (fold*/{run_files.RESULT}); name the folder of a fine-tuning run"
        )
    return found


def read_arms(arms: Mapping[str, Sequence[Path]]) -> Comparison:
    """Read the finished folds of each arm.

    Raises:
        UserError: a file cannot be read, there are two of one fold, folds of a task differ in more than their rows, or
            arms have other rows of an own task.
    """
    official = {(task.suite, task.name): task for task in all_tasks().values()}
    order = {key: number for number, key in enumerate(official)}
    tasks: dict[Key, ComparedTask] = {}
    first: dict[Key, tuple[str, FoldScores]] = {}
    results = []
    for arm, files in arms.items():
        by_task: defaultdict[Key, list[FoldScores]] = defaultdict(list)
        for file in files:
            fold = _read(file)
            by_task[fold.content["suite"], fold.content["task"]].append(fold)
        for key, found in sorted(by_task.items(), key=lambda item: (order.get(item[0], len(order)), item[0])):
            folds = sorted(found, key=lambda fold: fold.number)
            _check_one_run(arm, folds)
            known = official.get(key)
            metric = known.metric if known else folds[0].content["metric"]
            task = tasks.setdefault(key, ComparedTask(*key, metric, known))
            _check_same_data(folds[0], first.setdefault(key, (arm, folds[0])), arm, known is not None)
            results.append(TaskResults(arm, task, tuple(folds)))
    in_order = sorted(tasks.values(), key=lambda task: order.get(task.key, len(order)))
    return Comparison(tuple(results), tuple(in_order))


def _read(file: Path) -> FoldScores:
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
    return FoldScores(file, content["fold"], content["test"], content["test_leak_free"], content)


def _check_one_run(arm: str, folds: list[FoldScores]) -> None:
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


def _check_same_data(fold: FoldScores, first: tuple[str, FoldScores], arm: str, official: bool) -> None:
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
