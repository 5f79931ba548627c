"""Run a sweep plan on Ray Tune."""

from collections.abc import Callable
from typing import Any

import ray
from ray.tune.schedulers import FIFOScheduler

from ldarnet.config import FinetuneConfig
from ldarnet.config.sweep import SweepConfig
from ldarnet.errors import UserError
from ldarnet.io.files import NotWritableError
from ldarnet.jobs.driver import run_trials
from ldarnet.sweeps import trial as trial_module
from ldarnet.sweeps.asha import GroupedAsha
from ldarnet.sweeps.display import SweepProgress
from ldarnet.sweeps.folders import Folders
from ldarnet.sweeps.plan import SweepPlan, TaskPlan
from ldarnet.sweeps.settings import Setting
from ldarnet.sweeps.trial import FoldTrial, TrialJob


class Driver:
    """Connects a plan to Ray Tune: supplies trials and records their outcomes.

    Args:
        config: sweep configuration.
        plan: plan to run.
        folders: folders of the sweep.
        display: progress display.
        make_job: builds the job of a trial.
    """

    def __init__(
        self,
        config: SweepConfig,
        plan: SweepPlan,
        folders: Folders,
        display: SweepProgress,
        make_job: Callable[[TaskPlan, Setting, int], TrialJob],
    ) -> None:
        self.plan, self.display = plan, display
        self._config, self._folders, self._make_job = config, folders, make_job
        self._trials: dict[str, tuple[TaskPlan, Setting, int]] = {}
        self.error: UserError | None = None

    def run(self, base: FinetuneConfig, gpus: float, interrupted: Callable[[], bool]) -> None:
        """Run trials until the plan is complete or `interrupted` returns True.

        Args:
            base: configuration that all trials share.
            gpus: GPUs per trial.
            interrupted: returns True once the sweep must stop; polled by Ray Tune's event loop.

        Raises:
            UserError: the folder of a trial cannot be written.
        """
        ray.cloudpickle.register_pickle_by_value(trial_module)
        resources = {"CPU": self._config.resources.cpus, "GPU": gpus}
        run_trials(
            self,
            FoldTrial,
            lambda job: resources,
            self._folders.root,
            scheduler=self._scheduler(base),
            concurrent=self._config.resources.concurrent,
            retries=self._config.sweep.retries,
            interrupted=lambda: interrupted() or self.error is not None,
        )
        if self.error is not None:
            raise self.error

    def __getstate__(self) -> dict[str, Any]:
        """Pickle no attributes. Ray saves the driver for `Tuner.restore`, which sweeps do not use."""
        return {}

    def suggest(self, trial_id: str) -> TrialJob | None:
        """Return the job of the next trial; None if no trial can start now."""
        while self.error is None and (next_fold := self.plan.next()) is not None:
            task, setting, fold = next_fold
            try:
                job = self._make_job(task, setting, fold)
            except NotWritableError as error:
                self.error = error
            except UserError as error:
                task.fail(setting, fold, str(error), permanent=True)
                self.display.trial_ended(task, setting, fold, f"error: {error}")
            else:
                task.mark(setting, fold, "queued")
                self._trials[trial_id] = next_fold
                return job
        return None

    @property
    def running(self) -> int:
        """Number of queued and running folds."""
        return self.plan.running

    def started(self, trial_id: str) -> None:
        """Record the start of a trial or of its retry."""
        task, setting, fold = self._trials[trial_id]
        task.mark(setting, fold, "running")
        self.display.trial_started(task, setting, fold)

    def ended(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record that a trial finished, was stopped early or had a user error."""
        task, setting, fold = self._trials[trial_id]
        outcome, score = result.get("outcome", "stopped"), result.get("score")
        if outcome == "finished":
            task.mark(setting, fold, "finished", score)
            text = f"{score:.4f}"
        elif outcome == "user_error":
            task.fail(setting, fold, result["reason"], permanent=True, started_training=result["started_training"])
            text = f"error: {result['reason']}"
        else:
            task.fold(setting, fold).epochs = self._folders.epochs(task.task, setting.name, fold)
            task.mark(setting, fold, "stopped")
            text = f"stopped early after epoch {result['epoch']} with score {score:.4f}"
        self.display.trial_ended(task, setting, fold, text)
        self._folders.delete_unneeded(task)

    def failed(self, trial_id: str, reason: str, retry: bool) -> None:
        """Record that a trial failed, and whether Ray Tune retries it."""
        task, setting, fold = self._trials[trial_id]
        if retry:
            self.display.warn(f"{task.task} {setting.name} fold {fold}: {reason}; retrying")
            return
        task.fail(setting, fold, reason, permanent=False)
        self.display.trial_ended(task, setting, fold, f"failed: {reason}")
        self._folders.delete_unneeded(task)

    def _scheduler(self, base: FinetuneConfig) -> FIFOScheduler:
        if self._config.search.asha is None:
            return FIFOScheduler()

        def on_stop(job: dict[str, Any], epoch: int) -> None:
            self._folders.mark_stopped(job["task"], job["setting"], job["fold"], epoch)

        asha = GroupedAsha(self._config.search.asha, base.training.epochs, on_stop)
        for task in self.plan.tasks.values():
            for setting, fold, status in task.all_folds():
                if fold in task.search_folds and status.state in ("finished", "stopped"):
                    asha.replay((task.task, fold), setting.name, status.epochs)
        return asha
