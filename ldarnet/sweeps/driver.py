"""Ray Tune goes through a plan: what it asks for next, what it tells, and when it stops."""

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
from ldarnet.sweeps.display import SweepProgress
from ldarnet.sweeps.folders import Folders
from ldarnet.sweeps.halving import Halving
from ldarnet.sweeps.plan import SweepPlan, TaskPlan
from ldarnet.sweeps.settings import Setting
from ldarnet.sweeps.trial import FoldTrial, TrialJob

Place = tuple[TaskPlan, Setting, int]
"""A task, a setting and a fold."""


class Driver:
    """Lets Ray Tune run what a plan says.

    Args:
        config: of the sweep.
        plan: what there is to do.
        folders: where it is done.
        display: is told what happens.
        job: makes what a worker must know of a trial.
    """

    def __init__(
        self,
        config: SweepConfig,
        plan: SweepPlan,
        folders: Folders,
        display: SweepProgress,
        job: Callable[[Place], TrialJob],
    ) -> None:
        self.plan, self.display = plan, display
        self._config, self._folders, self._job = config, folders, job
        self._places: dict[str, Place] = {}
        self.error: UserError | None = None

    def run(self, base: FinetuneConfig, gpus: float, interrupted: Callable[[], bool]) -> None:
        """Go on until nothing is left to do, or an interruption.

        Args:
            base: what the trials' configurations share.
            gpus: of a trial.
            interrupted: whether to end, asked all the time.

        Raises:
            UserError: a trial cannot be prepared.
        """
        ray.cloudpickle.register_pickle_by_value(trial_module)
        storage = self._folders.root / ".ray"
        shutil.rmtree(storage, ignore_errors=True)
        tuner = Tuner(
            tune.with_resources(FoldTrial, {"cpu": self._config.resources.cpus, "gpu": gpus}),
            tune_config=TuneConfig(
                search_alg=_Suggester(self),
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
                callbacks=[_Watcher(self)],
                stop=_Interruption(lambda: interrupted() or self.error is not None),
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
        """Nothing: Ray writes a copy for `Tuner.restore`, and here the folders are what a sweep is continued from."""
        return {}

    def suggest(self, trial_id: str) -> TrialJob | None:
        """The next trial; None if there is none, or none yet."""
        while self.error is None and (place := self.plan.next()) is not None:
            task, setting, fold = place
            try:
                job = self._job(place)
            except NotWritableError as error:
                self.error = error
            except UserError as error:
                task.fail(setting, fold, str(error), lasting=True)
                self.display.ended(task, setting, fold, f"error: {error}")
            else:
                task.mark(setting, fold, "queued")
                self._places[trial_id] = place
                return job
        return None

    def begun(self, trial: Trial) -> None:
        """A trial runs now, perhaps not for the first time."""
        task, setting, fold = self._places[trial.trial_id]
        task.mark(setting, fold, "running")
        self.display.begun(task, setting, fold)

    def ended(self, trial: Trial) -> None:
        """A trial has finished, was stopped because it fell behind, or has met a mistake of the user."""
        task, setting, fold = self._places[trial.trial_id]
        last = trial.last_result
        outcome, score = last.get("outcome", "stopped"), last.get("score")
        if outcome == "finished":
            task.mark(setting, fold, "finished", score)
            text = f"{score:.4f}"
        elif outcome == "mistake":
            task.fail(setting, fold, last["reason"], lasting=True, began=last["began"])
            text = f"error: {last['reason']}"
        else:
            task.fold(setting, fold).epochs = self._folders.epochs(task.task, setting.name, fold)
            task.mark(setting, fold, "stopped")
            text = f"stopped after epoch {last['epoch']} with {score:.4f}"
        self.display.ended(task, setting, fold, text)
        self._folders.tidy(task)

    def failed(self, trial: Trial, again: bool) -> None:
        """A trial has failed, and is begun again or given up."""
        task, setting, fold = self._places[trial.trial_id]
        reason = _reason(trial)
        if again:
            self.display.warn(f"{task.task} {setting.name} fold {fold}: {reason}; it is begun again")
            return
        task.fail(setting, fold, reason, lasting=False)
        self.display.ended(task, setting, fold, f"failed: {reason}")
        self._folders.tidy(task)

    def _scheduler(self, base: FinetuneConfig) -> FIFOScheduler:
        if self._config.search.asha is None:
            return FIFOScheduler()

        def stop(job: dict[str, Any], epoch: int) -> None:
            self._folders.stop(job["task"], job["setting"], job["fold"], epoch)

        halving = Halving(self._config.search.asha, base.training.epochs, stop)
        for task in self.plan.tasks.values():
            for one, fold, cell in task.cells():
                if fold in task.search_folds and cell.state in ("finished", "stopped"):
                    halving.replay((task.task, fold), one.name, cell.epochs)
        return halving


class _Suggester(Searcher):
    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        job = self._driver.suggest(trial_id)
        if job is not None:
            return dict(job)
        return None if self._driver.plan.running else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """What happened is told by the callback, which knows the reason of a failure."""


class _Watcher(Callback):
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def on_trial_start(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        self._driver.begun(trial)

    def on_trial_complete(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        self._driver.ended(trial)

    def on_trial_recover(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        self._driver.failed(trial, again=True)

    def on_trial_error(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        self._driver.failed(trial, again=False)


class _Interruption(Stopper):
    def __init__(self, interrupted: Callable[[], bool]) -> None:
        self._interrupted = interrupted

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._interrupted()


def _reason(trial: Trial) -> str:
    """In one line: what the trial raised last, or how its worker was lost."""
    text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
    lines = [line.strip() for line in text.rpartition("Failure # ")[2].splitlines()[1:] if line.strip()]
    if not lines:
        return "failed without a word"
    # Of an exception in the trial there is a traceback, with what it says at the end.
    return lines[-1].removeprefix("RuntimeError: ") if "ray::" in lines[0] else lines[0]
