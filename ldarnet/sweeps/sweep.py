"""Run a sweep: `run_sweep(config)`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ldarnet.config import FinetuneConfig
from ldarnet.config.sweep import SweepConfig
from ldarnet.console import make_console
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path, write_json_atomic
from ldarnet.jobs.cluster import check_shared, gpus_per_trial, ray_cluster
from ldarnet.jobs.driver import catch_signals, wait_for_saving
from ldarnet.jobs.tracking import ParentRun
from ldarnet.sweeps import report
from ldarnet.sweeps.display import SweepProgress
from ldarnet.sweeps.driver import Driver
from ldarnet.sweeps.folders import Folders
from ldarnet.sweeps.jobs import JobFactory
from ldarnet.sweeps.plan import SweepPlan, TaskPlan
from ldarnet.sweeps.settings import check_sweep, folds_of, grid, trial_config
from ldarnet.sweeps.study import Study
from ldarnet.tasks.metrics import metric_name
from ldarnet.tasks.registry import find_task, find_tasks

PROGRAM = "ldarnet.cli.finetune"
OWN = "own"
"""Task name in a sweep on the user's own data files."""


@dataclass(frozen=True)
class Sweep:
    """Outcome of a sweep.

    Attributes:
        plan: state of all tasks, settings and folds.
        interrupted: whether a signal stopped the sweep.
    """

    plan: SweepPlan
    interrupted: bool

    @property
    def failed(self) -> bool:
        """Whether a fold failed for a reason that may be transient."""
        return any(
            status.state == "failed" and not status.permanent
            for task in self.plans
            for _, _, status in task.all_folds()
        )

    @property
    def done(self) -> bool:
        """Whether every task has a chosen setting with all folds finished."""
        return all(task.done for task in self.plans)

    @property
    def plans(self) -> list[TaskPlan]:
        """Plan of each task."""
        return list(self.plan.tasks.values())


def run_sweep(config: SweepConfig, program: str = PROGRAM, console: Console | None = None) -> Sweep:
    """Start or resume a sweep, and write its results to its folder.

    Args:
        config: sweep configuration.
        program: the fine-tuning program, a module name or the absolute path of a .py file.
        console: console to print on.

    Raises:
        TransientError: the Ray cluster does not answer.
        UserError: the configuration is invalid, the folder is in use, or no node has the resources that a trial needs.
    """
    console = console or make_console()
    tasks = tasks_of(config)
    config, base = check_sweep(config, next(iter(tasks.values())))
    metric = base.evaluation.metric
    folders = Folders(config, metric)
    with folders.open(config, base):
        plan = plan_of(config, base, tasks, folders)
        console.print(_header(config, base, plan), markup=False)
        received: list[str] = []
        parent = ParentRun(config, folders.root, config.tracking, lambda text: console.print(text, markup=False))
        try:
            if plan.max_remaining():
                with ray_cluster(config.ray.address):
                    gpus = gpus_per_trial(config.resources, "resources")
                    if config.ray.address is not None:
                        check_shared(folders.root, "sweep.dir")
                    make_job = JobFactory(config, metric, tasks, folders, program, gpus, parent)
                    with catch_signals(received), SweepProgress(plan, metric_name(metric), console) as display:
                        Driver(config, plan, folders, display, make_job).run(base, gpus, lambda: bool(received))
            if received:
                wait_for_saving(folders.running(plan))
        finally:
            sweep = Sweep(plan, bool(received))
            files = _write_results(config, plan, folders, metric)
            status = "FINISHED" if sweep.done else "KILLED" if sweep.interrupted else "FAILED"
            parent.end(status, report.chosen_means(plan, metric), files)
        compared = report.compare(plan, folders)
        if sweep.interrupted and not sweep.done:
            saved = f"stopped by {received[0]}; progress is saved in {folders.root}"
            console.print(f"{saved}; run the same command again to resume\n", markup=False)
        console.print(files[1].read_text(encoding="utf-8"), end="", markup=False)
        if compared is not None:
            console.print(f"results on test rows: {compared}", markup=False)
    return sweep


def tasks_of(config: SweepConfig) -> dict[str, str | None]:
    """Tasks of a sweep.

    Returns:
        Task name -> value of `task` in the fine-tuning configuration; None for the user's own data.

    Raises:
        UserError: a task does not exist.
    """
    if config.sweep.tasks is None:
        base = trial_config(config, None, {})
        if base.task is None or base.data.train is not None:
            return {OWN: None}
        return {find_task(base.task).key: base.task}
    return {task.key: task.key for task in find_tasks(config.sweep.tasks)}


def plan_of(config: SweepConfig, base: FinetuneConfig, tasks: Mapping[str, str | None], folders: Folders) -> SweepPlan:
    """Build the plan from the configuration and the results of previous launches.

    Raises:
        UserError: a previous result is damaged, or results come from different data or weights.
    """
    plans = []
    for task, registered in tasks.items():
        folds = folds_of(base, registered)
        search_folds = sorted(set(config.search.folds or folds) & set(folds)) or folds
        study, settings = None, []
        if config.search.kind == "optuna":
            study = Study(config.space, config.search.trials, config.search.seed)
            settings = [setting for setting in folders.settings(task, list(config.space)) if study.covers(setting)]
        else:
            settings = grid(config.space)
        known = {
            (setting.name, fold): folders.fold(task, setting.name, fold, is_search_fold=fold in search_folds)
            for setting in settings
            for fold in folds
        }
        plans.append(TaskPlan(task, settings, folds, search_folds, known, study))
    return SweepPlan(plans)


def _header(config: SweepConfig, base: FinetuneConfig, plan: SweepPlan) -> str:
    done = plan.count("finished") + plan.count("stopped")
    resumed = f", {done} already done" if done else ""
    folds = ", ".join(map(str, next(iter(plan.tasks.values())).search_folds))
    tasks = f"{len(plan.tasks)} task{'s' if len(plan.tasks) > 1 else ''}"
    metric = metric_name(base.evaluation.metric)
    return (
        f"sweep: {config.sweep.dir}: {tasks}, at most {done + plan.max_remaining()} trials{resumed}\n"
        f"search: {report.describe_search(config)}; compared by mean validation {metric} over folds {folds}"
    )


def _write_results(config: SweepConfig, plan: SweepPlan, folders: Folders, metric: str) -> list[Path]:
    """Write sweep.json and summary.txt, and delete unneeded weights of finished tasks."""
    for task in plan.tasks.values():
        folders.delete_unneeded(task)
    paths = [folders.root / run_files.SWEEP_REPORT, folders.root / run_files.SUMMARY_TEXT]
    write_json_atomic(paths[0], report.sweep_json(config, plan, folders, metric), indent=2)
    with atomic_path(paths[1]) as temporary:
        temporary.write_text(report.summary(config, plan, folders, metric), encoding="utf-8")
    return paths
