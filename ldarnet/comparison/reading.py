"""Read finished folds of fine-tuning runs into a comparison, and check that they can be compared."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from typing_extensions import TypedDict

from ldarnet.comparison.results import ComparedTask, Comparison, FoldScores, Key, TaskResults
from ldarnet.errors import UserError
from ldarnet.finetuning.arms import arm_of_result
from ldarnet.finetuning.records import RESULT, FoldRecord, stages_of, task_type_of
from ldarnet.finetuning.results import RESULT_HINT
from ldarnet.io import run_files
from ldarnet.io.names import RelativePath
from ldarnet.io.records import read_record
from ldarnet.printable import printable
from ldarnet.tasks.metrics import metrics_of
from ldarnet.tasks.registry import all_tasks

_RUN_FIELDS = ("arm", "checkpoint_sha256", "mode", "metric", "folds", "seed", "data_fingerprint", "classes", "targets")
"""Fields that all folds of a run share, in addition to its settings."""


class _TaskResultPaths(TypedDict):
    results: list[RelativePath]


class SweepResults(TypedDict):
    """The part of sweep.json that lists the results of the selected settings, as paths relative to the sweep folder."""

    tasks: dict[str, _TaskResultPaths]


def find_results(folder: Path) -> list[Path]:
    """Find the `result.json` of every finished fold below a folder; in a sweep, only those of the selected settings.

    Raises:
        UserError: the folder contains no finished fold.
    """
    if (sweep := folder / run_files.SWEEP_REPORT).is_file():
        tasks = read_record(sweep, SweepResults, hint="run the same sweep again")["tasks"]
        found = [folder / path for task in tasks.values() for path in task["results"]]
    else:
        found = sorted(folder.glob(f"**/{run_files.FOLD_RESULTS}"))
    if not found:
        raise UserError(
            f"{folder}: no finished fold (no {run_files.FOLD_RESULTS} found); finish at least one fold, or pass the "
            "folder of another fine-tuning run or sweep"
        )
    return found


def read_arms(arms: Mapping[str, Sequence[Path]], *, advance: Callable[[int], object] = lambda _: None) -> Comparison:
    """Read the finished folds of each arm.

    Args:
        arms: for each arm, the `result.json` files of its folds.
        advance: reports progress; called with 1 each time a fold has been read.

    Raises:
        UserError: a file cannot be read, a fold occurs twice, the folds of an arm on a task come from different runs,
            or two arms have different rows of the same user-provided task.
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
            advance(1)
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
    content = read_record(file, RESULT, hint=RESULT_HINT)
    test = content["test"]
    if test is None:
        raise UserError(
            f"{file}: task {printable(content['task'])} was run without test rows; set data.test and fine-tune again"
        )
    if content["metric"] not in metrics_of(task_type_of(content)):
        raise UserError(f"{file}: metric {printable(content['metric'])} is unknown; {RESULT_HINT}")
    try:
        arm_of_result(content["arm"], content["mode"])
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return FoldScores(file, content["fold"], test, content["test_leak_free"], content)


def _check_one_run(arm: str, folds: list[FoldScores]) -> None:
    """Check that the folds of an arm on a task are distinct and were trained with the same settings.

    Raises:
        UserError: a fold occurs twice, or settings differ.
    """
    hint = "pass each run as a separate NAME=FOLDER"
    first = folds[0]
    for before, fold in pairwise(folds):
        if before.number == fold.number:
            raise UserError(
                f"fold {fold.number} of {printable(first.content['task'])} occurs twice: {fold.file}, "
                f"{before.file}; {hint}"
            )
        ours, theirs = _of_run(first.content), _of_run(fold.content)
        if other := sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key)):
            raise UserError(
                f"arm {arm!r} mixes runs that differ in {', '.join(other)}: {fold.file}, {first.file}; {hint}"
            )


def _of_run(content: FoldRecord) -> dict[str, object]:
    """Fields and settings that all folds of a run share."""
    shared = {key: content.get(key) for key in _RUN_FIELDS}
    return content["settings"] | shared | {"task_type": task_type_of(content), "number of stages": stages_of(content)}


def _check_same_data(fold: FoldScores, first: tuple[str, FoldScores], arm: str, official: bool) -> None:
    """Check that two arms used the same rows of a user-provided task, since different data can have the same task name.

    Raises:
        UserError: the types of the tasks or the rows differ.
    """
    before, other = first
    types = [task_type_of(one.content) for one in (other, fold)]
    if types[0] != types[1]:
        raise UserError(
            f"arms {before!r} and {arm!r} have different types of task {fold.content['task']!r}, "
            f"{' and '.join(types)}: {other.file}, {fold.file}; compare runs with the same task_type"
        )
    if not official and fold.content["data_fingerprint"] != other.content["data_fingerprint"]:
        raise UserError(
            f"arms {arm!r} and {before!r} have different rows of task {fold.content['task']!r}: {fold.file}, "
            f"{other.file}; compare runs with the same data.train and data.test; if these are two tasks, "
            "rerun one of them with another name (task=NAME) and a new run.dir"
        )
