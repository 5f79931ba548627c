"""A sweep from beginning to end: `run_sweep(config, program)`."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from ldarnet.config import FinetuneConfig
from ldarnet.config.sweep import SweepConfig
from ldarnet.console import make_console
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path, write_json_atomic
from ldarnet.sweeps import report
from ldarnet.sweeps.cluster import check_shared, gpus_of_a_trial, joined
from ldarnet.sweeps.display import SweepProgress
from ldarnet.sweeps.driver import Driver
from ldarnet.sweeps.folders import Folders
from ldarnet.sweeps.jobs import Jobs
from ldarnet.sweeps.plan import SweepPlan, TaskPlan
from ldarnet.sweeps.settings import check, describe, folds_of, grid
from ldarnet.sweeps.study import Study
from ldarnet.sweeps.tracking import ParentRun
from ldarnet.tasks.metrics import METRICS
from ldarnet.tasks.registry import all_tasks, find_task

PROGRAM = "ldarnet.cli.finetune"
OWN = "own"
"""Name of the task that a sweep over the user's own files has."""


@dataclass(frozen=True)
class Sweep:
    """What became of a sweep.

    Attributes:
        plan: with all that was searched, chosen and failed.
        interrupted: whether a signal has ended it early.
    """

    plan: SweepPlan
    interrupted: bool

    @property
    def failed(self) -> bool:
        """Whether a fold was given up for a fault that may pass."""
        return any(cell.state == "failed" and not cell.lasting for task in self.plans for _, _, cell in task.cells())

    @property
    def done(self) -> bool:
        """Whether every task has a setting that was chosen and has finished all folds."""
        return all(task.done for task in self.plans)

    @property
    def plans(self) -> list[TaskPlan]:
        """The tasks."""
        return list(self.plan.tasks.values())


def run_sweep(config: SweepConfig, program: str = PROGRAM, console: Console | None = None) -> Sweep:
    """Begin a sweep or continue it, and leave its report in its folder.

    Args:
        config: of the sweep.
        program: the fine-tuning program, a module name or the absolute path of a .py file.
        console: to print on.

    Raises:
        TransientError: the cluster does not answer.
        UserError: the configuration is wrong, the folder is taken, or the cluster has not what a trial takes.
    """
    console = console or make_console()
    tasks = tasks_of(config)
    config, base = check(config, next(iter(tasks.values())))
    metric = base.evaluation.metric
    folders = Folders(config, metric)
    with folders.open(config, base):
        plan = plan_of(config, base, tasks, folders)
        console.print(_greeting(config, base, plan), markup=False)
        received: list[str] = []
        parent = ParentRun(config, lambda text: console.print(text, markup=False))
        try:
            if plan.most_left():
                with joined(config.ray.address):
                    gpus = gpus_of_a_trial(config.resources)
                    if config.ray.address is not None:
                        check_shared(folders.root)
                    jobs = Jobs(config, metric, tasks, folders, program, gpus, parent)
                    with _signals(received), SweepProgress(plan, METRICS[metric].name, console) as display:
                        Driver(config, plan, folders, display, jobs).run(base, gpus, lambda: bool(received))
            if received:
                folders.wait_for_saving(plan)
        finally:
            sweep = Sweep(plan, bool(received))
            files = _leave(config, plan, folders, metric)
            status = "FINISHED" if sweep.done else "KILLED" if sweep.interrupted else "FAILED"
            parent.end(status, report.numbers(plan, metric), files)
        compared = report.compare(plan, folders)
        if sweep.interrupted and not sweep.done:
            saved = f"stopped by {received[0]}; everything is saved in {folders.root}"
            console.print(f"{saved}. Run the same command again to continue.\n", markup=False)
        console.print(files[1].read_text(encoding="utf-8"), end="", markup=False)
        if compared is not None:
            console.print(f"results on test rows     {compared}", markup=False)
    return sweep


def tasks_of(config: SweepConfig) -> dict[str, str | None]:
    """The tasks of a sweep: name -> what fine-tuning is given as `task`.

    Raises:
        UserError: there is no task of a name; the nearest ones are named.
    """
    if config.sweep.tasks is None:
        described = describe(config, None, {})
        if described.task is None or described.data.train is not None:
            return {OWN: None}
        return {find_task(described.task).key: described.task}
    asked = [config.sweep.tasks] if isinstance(config.sweep.tasks, str) else config.sweep.tasks
    suites = {task.short for task in all_tasks().values()}
    known = list(all_tasks().values())
    found = [[task for task in known if task.short == name] if name in suites else [find_task(name)] for name in asked]
    return {task.key: task.key for tasks in found for task in tasks}


def plan_of(config: SweepConfig, base: FinetuneConfig, tasks: Mapping[str, str | None], folders: Folders) -> SweepPlan:
    """What there is to do, and what earlier starts have done of it.

    Raises:
        UserError: a result of an earlier start is damaged, or of other data than others.
    """
    plans = []
    for task, known_as in tasks.items():
        folds = folds_of(base, known_as)
        search_folds = sorted(set(config.search.folds or folds) & set(folds)) or folds
        study, settings = None, []
        if config.search.kind == "optuna":
            study = Study(config.space, config.search.trials, config.search.seed)
            settings = [one for one in folders.settings(task, list(config.space)) if study.covers(one)]
        else:
            settings = grid(config.space)
        known = {
            (one.name, fold): folders.fold(task, one.name, fold, rivals=fold in search_folds)
            for one in settings
            for fold in folds
        }
        plans.append(TaskPlan(task, settings, folds, search_folds, known, study))
    return SweepPlan(plans)


def _greeting(config: SweepConfig, base: FinetuneConfig, plan: SweepPlan) -> str:
    done = plan.count("finished") + plan.count("stopped")
    earlier = f", {done} done by earlier starts" if done else ""
    folds = ", ".join(map(str, next(iter(plan.tasks.values())).search_folds))
    tasks = f"{len(plan.tasks)} task{'s' if len(plan.tasks) > 1 else ''}"
    metric = METRICS[base.evaluation.metric].name
    return (
        f"sweep    {config.sweep.dir}: {tasks}, at most {done + plan.most_left()} trials{earlier}\n"
        f"search   {report.searched(config)}, by mean validation {metric} over folds {folds}"
    )


def _leave(config: SweepConfig, plan: SweepPlan, folders: Folders, metric: str) -> list[Path]:
    """Write what was found so far, and delete the weights that nobody needs when a task is done."""
    for task in plan.tasks.values():
        folders.tidy(task)
    paths = [folders.root / run_files.SWEEP_REPORT, folders.root / run_files.SUMMARY_TEXT]
    write_json_atomic(paths[0], report.content(config, plan, folders, metric), indent=2)
    with atomic_path(paths[1]) as temporary:
        temporary.write_text(report.summary(config, plan, folders, metric), encoding="utf-8")
    return paths


@contextmanager
def _signals(received: list[str]) -> Iterator[None]:
    """Take note of SIGINT and SIGTERM inside the block; the second one of a kind acts as it did before."""
    before = {}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number).name)
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
