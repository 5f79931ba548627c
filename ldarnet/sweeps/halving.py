"""Asynchronous successive halving among folds that may be compared: the same fold of the same task."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from ldarnet.config.sweep import AshaSection

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

League = tuple[str, int]
"""A task and a fold: scores of other tasks, or on other validation rows, say nothing about a setting."""


@dataclass(frozen=True)
class _Earlier:
    """Stands for a trial of an earlier start; all that ASHA asks of one is its id."""

    trial_id: str


class Halving(FIFOScheduler):
    """One ASHA for each fold of each task. Folds that are final have no rivals and go to their end.

    Args:
        config: of ASHA.
        epochs: that a fold lasts at most.
        on_stop: is told the configuration of a trial, its epoch and score, when it is stopped.
    """

    def __init__(self, config: AshaSection, epochs: int, on_stop: Callable[[dict[str, Any], int], None]) -> None:
        super().__init__()
        self._config, self._epochs, self._on_stop = config, epochs, on_stop
        self._leagues: dict[League, ASHAScheduler] = {}

    def replay(self, league: League, name: str, epochs: dict[int, float]) -> None:
        """Take note of a fold of an earlier start: best score up to each epoch."""
        asha, earlier = self._league(league), _Earlier(name)
        asha.on_trial_add(None, earlier)  # type: ignore[arg-type]
        for epoch, score in epochs.items():
            asha.on_trial_result(None, earlier, {"epoch": epoch, "score": score})  # type: ignore[arg-type]

    def on_trial_add(self, tune_controller: "TuneController", trial: Trial) -> None:
        """A fold begins, or begins again."""
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: "TuneController", trial: Trial, result: dict[str, Any]) -> str:
        """Whether a fold goes on after an epoch."""
        if trial.config["final"] or result["epoch"] >= self._epochs:
            return TrialScheduler.CONTINUE
        decision = self._of(trial).on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            self._on_stop(trial.config, result["epoch"])
        return decision

    def on_trial_complete(self, tune_controller: "TuneController", trial: Trial, result: dict[str, Any]) -> None:
        """A fold has ended."""
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: "TuneController", trial: Trial) -> None:
        """A fold that had not begun was taken away."""
        self._of(trial).on_trial_remove(tune_controller, trial)

    def _of(self, trial: Trial) -> ASHAScheduler:
        return self._league((trial.config["task"], trial.config["fold"]))

    def _league(self, league: League) -> ASHAScheduler:
        if league not in self._leagues:
            self._leagues[league] = ASHAScheduler(
                time_attr="epoch",
                metric="score",
                mode="max",
                max_t=self._epochs,
                grace_period=self._config.grace,
                reduction_factor=self._config.reduction,
                stop_last_trials=False,
            )
        return self._leagues[league]
