"""Asynchronous successive halving (ASHA) among trials of the same task and fold.

Scores of different tasks or folds are not comparable.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from ldarnet.config.sweep import AshaSection

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

Group = tuple[str, int]
"""Task and fold of trials whose scores are comparable."""


@dataclass(frozen=True)
class _PreviousTrial:
    """Stands in for a trial of a previous launch; ASHA reads only the id of a trial."""

    trial_id: str


class GroupedAsha(FIFOScheduler):
    """Runs one ASHA scheduler per task and fold. Only trials on search folds are stopped.

    Args:
        config: `search.asha` section of the sweep configuration.
        epochs: maximum number of epochs of a fold.
        on_stop: called when ASHA stops a trial, with the configuration of the trial and its last epoch.
    """

    def __init__(self, config: AshaSection, epochs: int, on_stop: Callable[[dict[str, Any], int], None]) -> None:
        super().__init__()
        self._config, self._epochs, self._on_stop = config, epochs, on_stop
        self._schedulers: dict[Group, ASHAScheduler] = {}

    def replay(self, group: Group, name: str, epochs: dict[int, float]) -> None:
        """Record a trial of a previous launch.

        Args:
            group: task and fold.
            name: name of the setting.
            epochs: epoch -> best score up to this epoch.
        """
        asha, previous = self._scheduler(group), _PreviousTrial(name)
        asha.on_trial_add(None, previous)  # type: ignore[arg-type]
        for epoch, score in epochs.items():
            asha.on_trial_result(None, previous, {"epoch": epoch, "score": score})  # type: ignore[arg-type]

    def on_trial_add(self, tune_controller: "TuneController", trial: Trial) -> None:
        """Register a trial with the scheduler of its group."""
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: "TuneController", trial: Trial, result: dict[str, Any]) -> str:
        """Decide whether to continue or stop a trial after an epoch."""
        if trial.config["final"] or result["epoch"] >= self._epochs:
            return TrialScheduler.CONTINUE
        decision = self._of(trial).on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            self._on_stop(trial.config, result["epoch"])
        return decision

    def on_trial_complete(self, tune_controller: "TuneController", trial: Trial, result: dict[str, Any]) -> None:
        """Record that a trial has ended."""
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: "TuneController", trial: Trial) -> None:
        """Record that a pending trial was removed."""
        self._of(trial).on_trial_remove(tune_controller, trial)

    def _of(self, trial: Trial) -> ASHAScheduler:
        return self._scheduler((trial.config["task"], trial.config["fold"]))

    def _scheduler(self, group: Group) -> ASHAScheduler:
        if group not in self._schedulers:
            self._schedulers[group] = ASHAScheduler(
                time_attr="epoch",
                metric="score",
                mode="max",
                max_t=self._epochs,
                grace_period=self._config.grace,
                reduction_factor=self._config.reduction,
                stop_last_trials=False,
            )
        return self._schedulers[group]
