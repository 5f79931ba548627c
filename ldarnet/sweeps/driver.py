"""Run a sweep plan on Ray Tune."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, Stopper, TuneConfig, Tuner
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from ldarnet.config import FinetuneConfig
from ldarnet.config.sweep import SweepConfig
from ldarnet.errors import UserError
from ldarnet.io.files import NotWritableError
from ldarnet.sweeps import trial as trial_module
from ldarnet.sweeps.asha import GroupedAsha
from ldarnet.sweeps.display import SweepProgress
from ldarnet.sweeps.folders import Folders
from ldarnet.sweeps.plan import SweepPlan, TaskPlan
from ldarnet.sweeps.settings import Setting
from ldarnet.sweeps.trial import FoldTrial, TrialJob

RAY_FOLDER = ".ray"


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
        storage = self._folders.root / RAY_FOLDER
        shutil.rmtree(storage, ignore_errors=True)
        tuner = Tuner(
            tune.with_resources(FoldTrial, {"cpu": self._config.resources.cpus, "gpu": gpus}),
            tune_config=TuneConfig(
                search_alg=_PlanSearcher(self),
                scheduler=self._scheduler(base),
                num_samples=-1,
                max_concurrent_trials=self._config.resources.concurrent,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=RunConfig(
                name="tune",
                storage_path=str(storage),
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                failure_config=FailureConfig(max_failures=self._config.sweep.retries),
                callbacks=[_PlanCallback(self)],
                stop=_StopAll(lambda: interrupted() or self.error is not None),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        finally:
            shutil.rmtree(storage, ignore_errors=True)
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

    def started(self, trial: Trial) -> None:
        """Record the start of a trial or of its retry."""
        task, setting, fold = self._trials[trial.trial_id]
        task.mark(setting, fold, "running")
        self.display.trial_started(task, setting, fold)

    def ended(self, trial: Trial) -> None:
        """Record that a trial finished, was stopped early or had a user error."""
        task, setting, fold = self._trials[trial.trial_id]
        last = trial.last_result
        outcome, score = last.get("outcome", "stopped"), last.get("score")
        if outcome == "finished":
            task.mark(setting, fold, "finished", score)
            text = f"{score:.4f}"
        elif outcome == "user_error":
            task.fail(setting, fold, last["reason"], permanent=True, started_training=last["started_training"])
            text = f"error: {last['reason']}"
        else:
            task.fold(setting, fold).epochs = self._folders.epochs(task.task, setting.name, fold)
            task.mark(setting, fold, "stopped")
            text = f"stopped early after epoch {last['epoch']} with score {score:.4f}"
        self.display.trial_ended(task, setting, fold, text)
        self._folders.delete_unneeded(task)

    def failed(self, trial: Trial, retry: bool) -> None:
        """Record that a trial failed, and whether Ray Tune retries it."""
        task, setting, fold = self._trials[trial.trial_id]
        reason = _failure_reason(trial)
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


class _PlanSearcher(Searcher):
    """Supplies Ray Tune with the folds of the plan."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        job = self._driver.suggest(trial_id)
        if job is not None:
            return dict(job)
        return None if self._driver.plan.running else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing, because `_PlanCallback` records the outcomes of trials."""


class _PlanCallback(Callback):
    """Reports the start and the outcome of each trial to the driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def on_trial_start(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        self._driver.started(trial)

    def on_trial_complete(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        self._driver.ended(trial)

    def on_trial_recover(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        self._driver.failed(trial, retry=True)

    def on_trial_error(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        self._driver.failed(trial, retry=False)


class _StopAll(Stopper):
    """Stops all trials once a condition is true."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._condition()


def _failure_reason(trial: Trial) -> str:
    """Describe in one line why a trial failed."""
    text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
    lines = [line.strip() for line in text.rpartition("Failure # ")[2].splitlines()[1:] if line.strip()]
    if not lines:
        return "no error message"
    # For an exception raised in the trial, the file contains a traceback, whose last line is the message.
    return lines[-1].removeprefix("RuntimeError: ") if "ray::" in lines[0] else lines[0]
