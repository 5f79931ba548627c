"""Downstream tables of the report: each task and mode, and the mean over tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ldarnet import markdown
from ldarnet.ablation.differences import ArmDifference, p_text, paired, with_holm
from ldarnet.ablation.links import RunLinks
from ldarnet.ablation.pretraining_tables import Row
from ldarnet.ablation.records import seed_folder
from ldarnet.ablation.results import AblationResults
from ldarnet.comparison.reading import read_arms
from ldarnet.comparison.results import ComparedTask, Comparison, TaskResults
from ldarnet.io import run_files
from ldarnet.markdown import escape
from ldarnet.tasks.metrics import MIN_FOLDS, metric_name

POINTS = 100
"""A point is a hundredth of a metric."""


class Downstream:
    """Fine-tuning results of one mode.

    Attributes:
        mode: `probe` or `finetune`.
        by_seed: seed -> results of all arms.
        tasks: tasks with results.
    """

    def __init__(self, results: AblationResults, mode: str) -> None:
        self.mode, self.reference, self.arms = mode, results.reference, list(results.arms)
        self.by_seed: dict[str, Comparison] = {}
        for seed in dict.fromkeys(seed for arm in results.record["arms"].values() for seed in arm["seeds"]):
            files = {arm: _files(results, arm, seed, mode) for arm in results.arms}
            if any(files.values()):
                self.by_seed[seed] = read_arms({arm: found for arm, found in files.items() if found})
        self.tasks = list(
            {task.key: task for comparison in self.by_seed.values() for task in comparison.tasks}.values()
        )

    def of(self, arm: str, task: ComparedTask) -> dict[str, TaskResults]:
        """Results of an arm on a task, by seed."""
        found = {seed: comparison.get(arm, task) for seed, comparison in self.by_seed.items()}
        return {seed: result for seed, result in found.items() if result is not None and result.values()}

    def folds(self, arm: str, task: ComparedTask, *, like: str | None = None) -> dict[str, float]:
        """Values in points by seed and fold; with `like`, only where that arm has the same rows and folds."""
        values = {}
        other = self.of(like, task) if like is not None else {}
        for seed, result in self.of(arm, task).items():
            if like is None or (seed in other and other[seed].fold_identity == result.fold_identity):
                values |= {f"{seed}/{fold}": POINTS * value for fold, value in result.values().items()}
        return values

    def task_differences(self) -> list[ArmDifference]:
        """Paired differences over folds and seeds on each task; Holm's correction is over all arms and tasks."""
        found = []
        for task in self.tasks:
            reference = self.folds(self.reference, task)
            for arm in self.arms:
                if arm == self.reference or not (results := self.of(arm, task)):
                    continue
                one = next(iter(results.values()))
                ratio = one.test_rows / one.train_rows
                pair = paired(self.folds(arm, task, like=self.reference), reference, ratio, minimum=MIN_FOLDS)
                if pair is not None:
                    found.append(ArmDifference(self.mode, task.name, arm, "points", pair))
        return with_holm(found)

    def mean_differences(self) -> list[ArmDifference]:
        """Paired differences over seeds of the mean over tasks; Holm's correction is over arms."""
        found = []
        for arm in self.arms:
            per_task = [self._seed_differences(arm, task) for task in self.tasks] if arm != self.reference else []
            per_task = [values for values in per_task if values]
            seeds = [seed for seed in self.by_seed if per_task and all(seed in values for values in per_task)]
            means = {seed: float(np.mean([values[seed] for values in per_task])) for seed in seeds}
            pair = paired(means, dict.fromkeys(means, 0.0))
            if pair is not None:
                tasks = f"mean of {len(per_task)} task{'s' * (len(per_task) > 1)}"
                found.append(ArmDifference(self.mode, tasks, arm, "points", pair))
        return with_holm(found)

    def _seed_differences(self, arm: str, task: ComparedTask) -> dict[str, float]:
        ours, theirs = self.folds(arm, task, like=self.reference), self.folds(self.reference, task)
        by_seed: dict[str, list[float]] = {}
        for key in ours.keys() & theirs.keys():
            by_seed.setdefault(key.rpartition("/")[0], []).append(ours[key] - theirs[key])
        return {seed: float(np.mean(values)) for seed, values in by_seed.items()}


def _files(results: AblationResults, arm: str, seed: str, mode: str) -> list[Path]:
    folder = seed_folder(results.folder, arm, seed)
    return [
        file for task in results.record["tasks"] for file in sorted((folder / task / mode).glob(run_files.FOLD_RESULTS))
    ]


def missing_runs(results: AblationResults) -> list[str]:
    """Fine-tuning runs that are not finished."""
    return [
        f"arm {escape(arm)}, seed {escape(seed)}: {escape(task)}, {escape(mode)}"
        for arm, record in results.record["arms"].items()
        for seed in record["seeds"]
        for task in results.record["tasks"]
        for mode in results.record["modes"]
        if not (seed_folder(results.folder, arm, seed) / task / mode / run_files.SUMMARY).is_file()
    ]


def downstream_section(
    downstream: Downstream, means: list[ArmDifference], by_task: list[ArmDifference], links: RunLinks
) -> str:
    """Table of the mean over tasks, table of all tasks, and the value of every fold."""
    if not downstream.tasks:
        return "No fine-tuning run has finished."
    head = ["arm", "tasks", "seeds", "mean difference (points)", "p", "Holm", "detectable (points)"]
    rows = [[escape(one.arm), one.quantity, one.difference.count, one.text, *_p(one), one.detectable] for one in means]
    over_tasks = (
        "**Mean over tasks**: difference from the reference, averaged over folds and tasks; interval and p-value from "
        "the differences of the seeds (paired t-test).\n\n" + markdown.table(head, rows)
    )
    head = ["task", "arm", "metric", "seeds, folds", "mean (points)", "leak-free rows", "difference", "p", "Holm"]
    head += ["detectable"]
    tested = {(one.quantity, one.arm): one for one in by_task}
    rows = [
        _task_row(downstream, task, arm, tested.get((task.name, arm)))
        for task in downstream.tasks
        for arm in downstream.arms
        if downstream.of(arm, task)
    ]
    tasks = (
        "**Each task**: mean over folds and seeds; differences are paired by fold and seed, with the corrected t-test "
        "over folds and seeds. Holm's correction is over all rows.\n\n" + markdown.table(head, rows)
    )
    folds = _fold_table(downstream, links)
    return "\n\n".join([*([over_tasks] if means else []), tasks, folds])


def _p(one: ArmDifference | None) -> list[str]:
    return [p_text(one.difference.p if one else None), p_text(one.holm if one else None)]


def _task_row(downstream: Downstream, task: ComparedTask, arm: str, tested: ArmDifference | None) -> list[object]:
    results = downstream.of(arm, task)
    values = list(downstream.folds(arm, task).values())
    leak_free = [POINTS * value for one in results.values() for value in one.values(leak_free=True).values()]
    reference = arm == downstream.reference
    return [
        escape(task.name),
        f"**{escape(arm)}**" if reference else escape(arm),
        metric_name(task.metric),
        f"{len(results)}, {len(values)}",
        f"{np.mean(values):.2f}",
        f"{np.mean(leak_free):.2f}" if leak_free else "-",
        "reference" if reference else tested.text if tested else "-",
        *_p(tested),
        tested.detectable if tested else "-",
    ]


def _fold_table(downstream: Downstream, links: RunLinks) -> str:
    rows = [
        [
            escape(task.name),
            escape(arm),
            escape(seed),
            " ".join(
                links.markdown(f"{POINTS * value:.1f}", fold.file.parent)
                for fold in result.folds
                if (value := result.values().get(fold.number)) is not None
            ),
        ]
        for task in downstream.tasks
        for arm in downstream.arms
        for seed, result in downstream.of(arm, task).items()
    ]
    head = ["task", "arm", "seed", "folds (points)"]
    return f"<details><summary>Every fold, with its run</summary>\n\n{markdown.table(head, rows)}\n\n</details>"


def csv_rows(downstream: Downstream, links: RunLinks) -> list[Row]:
    """One row per arm, seed, task, fold and test set."""
    return [
        {
            "mode": downstream.mode,
            "task": task.name,
            "arm": arm,
            "seed": seed,
            "fold": fold.number,
            "metric": task.metric,
            "test_set": "leak_free" if leak_free else "all",
            "value": value,
            "run": links.url(fold.file.parent),
        }
        for task in downstream.tasks
        for arm in downstream.arms
        for seed, result in downstream.of(arm, task).items()
        for leak_free in (False, True)
        for fold in result.folds
        if (value := result.values(leak_free=leak_free).get(fold.number)) is not None
    ]
