"""Run an ablation: `run_ablation(config)`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ldarnet.ablation.arms import resolve_arms
from ldarnet.ablation.display import AblationProgress
from ldarnet.ablation.downstream import downstream_tasks, finetune_config
from ldarnet.ablation.driver import AblationQueue
from ldarnet.ablation.folders import AblationFolders
from ldarnet.ablation.jobs import PROGRAMS, AblationJobs
from ldarnet.ablation.plan import AblationPlan
from ldarnet.ablation.report import write_report
from ldarnet.ablation.sizing import size_table
from ldarnet.config.ablation import AblationConfig
from ldarnet.console import make_console
from ldarnet.extras import optional_imports
from ldarnet.io import run_files

with optional_imports("ldarnet ablate"):
    from ldarnet.jobs.cluster import check_shared, gpus_per_trial, ray_cluster
    from ldarnet.jobs.driver import catch_signals, run_trials, wait_for_saving
    from ldarnet.jobs.tracking import ParentRun
    from ldarnet.jobs.trial import ProgramTrial


@dataclass(frozen=True)
class Ablation:
    """Outcome of an ablation.

    Attributes:
        plan: state of all runs.
        interrupted: whether a signal stopped the ablation.
    """

    plan: AblationPlan
    interrupted: bool

    @property
    def done(self) -> bool:
        """Whether all arms are done."""
        return self.plan.done

    @property
    def failed(self) -> bool:
        """Whether a run failed for a reason that may be transient."""
        return self.plan.failed


def run_ablation(
    config: AblationConfig, programs: Mapping[str, str] = PROGRAMS, console: Console | None = None
) -> Ablation:
    """Start or resume an ablation, and write its report.

    Args:
        config: configuration of the ablation.
        programs: kind of run -> program, a module name or the absolute path of a .py file.
        console: console to print on.

    Raises:
        TransientError: the Ray cluster does not answer.
        UserError: the configuration is invalid, the folder is in use, or no node has the resources that a run needs.
    """
    console = console or make_console()
    arms, finetune = resolve_arms(config), finetune_config(config)
    folders = AblationFolders(config, arms, finetune)
    modes: list[str] = [*config.downstream.modes]
    downstream = [(task.key, mode) for task in downstream_tasks(config) for mode in modes]
    with folders.open():
        plan = folders.plan(downstream)
        folders.write(plan)
        _print(
            console, f"ablation: {config.ablation.dir}: {plan.count('finished')} runs finished, {plan.open} to run\n"
        )
        _print(console, size_table({name: arm.sized for name, arm in arms.items()}) + "\n")
        parent = ParentRun(config, folders.root, config.tracking, lambda text: _print(console, text))
        received: list[str] = []
        try:
            if plan.open:
                with ray_cluster(config.ray.address):
                    gpus = _check_cluster(config, folders.root)
                    make_job = AblationJobs(config, arms, folders, gpus, parent, programs)
                    with catch_signals(received), AblationProgress(plan, console) as display:
                        queue = AblationQueue(plan, folders, make_job, display, lambda: write_report(folders.root))
                        _run(queue, config, folders.root, received)
            if received:
                running = [run for run in plan.runs() if plan.status(run).state in ("queued", "running")]
                wait_for_saving(folders.of(run) for run in running)
                for run in running:
                    plan.status(run).state = "waiting"
            folders.write(plan)
            write_report(folders.root)
        finally:
            ablation = Ablation(plan, bool(received))
            status = "FINISHED" if ablation.done else "KILLED" if ablation.interrupted else "FAILED"
            parent.end(status, {}, [folders.root / run_files.ABLATION_RECORD])
    if received and not ablation.done:
        _print(
            console,
            f"stopped by {received[0]}; progress is saved in {folders.root}; run the same command again to resume",
        )
    for run in plan.runs():
        if (one := plan.status(run)).state == "failed":
            _print(console, f"failed: {run}: {one.reason}; see {folders.of(run)}")
    _print(console, f"report: {folders.root / run_files.ABLATION_REPORT}")
    return ablation


def _check_cluster(config: AblationConfig, root: Path) -> dict[str, float]:
    """GPUs of a run, by section of `resources`."""
    sections = {"pretrain": config.resources.pretrain}
    sections["finetune"] = config.resources.finetune
    gpus = {name: gpus_per_trial(section, f"resources.{name}") for name, section in sections.items()}
    if config.ray.address is not None:
        check_shared(root, "ablation.dir")
    return gpus


def _run(queue: AblationQueue, config: AblationConfig, root: Path, received: list[str]) -> None:
    def resources(job: Mapping[str, Any]) -> dict[str, float]:
        return {"CPU": job["cpus"], "GPU": job["gpus"]}

    run_trials(
        queue,
        ProgramTrial,
        resources,
        root,
        concurrent=config.resources.concurrent,
        retries=config.ablation.retries,
        interrupted=lambda: bool(received) or queue.error is not None,
    )
    if queue.error is not None:
        raise queue.error


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
