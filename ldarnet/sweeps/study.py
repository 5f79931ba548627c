"""Optuna study that suggests settings for one task."""

import logging
from collections.abc import Sequence
from typing import Any

from optuna import create_study
from optuna import logging as optuna_logging
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import TPESampler
from optuna.trial import Trial, TrialState, create_trial

from ldarnet.config.sweep import Range
from ldarnet.sweeps.plan import FoldStatus
from ldarnet.sweeps.settings import Setting, Space, setting

DIGITS = 4
"""Significant digits of sampled numbers, so that setting names contain them exactly."""
MAX_REPEATS = 100


class Study:
    """Tree-structured Parzen estimator (TPE) over a search space.

    Args:
        space: key -> list of values, or range.
        trials: number of settings to try, including those from previous launches.
        seed: seed of the sampler.
    """

    def __init__(self, space: Space, trials: int, seed: int) -> None:
        optuna_logging.set_verbosity(logging.WARNING)
        self._space, self._trials = space, trials
        self._study = create_study(direction="maximize", sampler=TPESampler(seed=seed))
        self._distributions = {key: _distribution(values) for key, values in space.items()}
        self._asked: dict[str, Trial] = {}

    def max_remaining(self, known: Sequence[Setting]) -> int:
        """Maximum number of settings that `ask` may still return."""
        return max(self._trials - len(known), 0)

    def ask(self, known: Sequence[Setting]) -> Setting | None:
        """Suggest a setting that is not in `known`.

        Returns:
            The setting; None if `known` already contains the maximum number of settings (the argument `trials` of the
            constructor), or if no new setting is found.
        """
        names = {previous.name for previous in known}
        for _ in range(MAX_REPEATS if len(known) < self._trials else 0):
            trial = self._study.ask(self._distributions)
            new = setting({key: self._value(key, param) for key, param in trial.params.items()})
            if new.name not in names:
                self._asked[new.name] = trial
                return new
            self._study.tell(trial, state=TrialState.FAIL)
        return None

    def tell(self, setting: Setting, folds: Sequence[FoldStatus]) -> None:
        """Report the outcome of a setting to Optuna.

        A setting with all folds finished is reported with its mean score, a setting that was stopped early with its
        score after each epoch, and any other setting as failed.
        """
        scores = [fold.score for fold in folds if fold.score is not None]
        complete = len(scores) == len(folds)
        value = sum(scores) / len(scores) if complete else None
        stopped = next((fold for fold in folds if fold.state == "stopped"), None)
        state = TrialState.COMPLETE if complete else TrialState.PRUNED if stopped is not None else TrialState.FAIL
        epochs = stopped.epochs if stopped is not None else {}
        if setting.name in self._asked:
            trial = self._asked.pop(setting.name)
            for epoch, score in epochs.items():
                trial.report(score, epoch)
            self._study.tell(trial, value, state=state)
            return
        params = {key: self._param(key, value) for key, value in setting.values.items()}
        self._study.add_trial(
            create_trial(
                state=state,
                value=value,
                params=params,
                distributions=self._distributions,
                intermediate_values=epochs,
            )
        )

    def _value(self, key: str, param: Any) -> Any:
        """Convert an Optuna parameter to a value of a setting.

        A list index becomes the list item. A float is rounded and clamped to the range.
        """
        values = self._space[key]
        if isinstance(values, list):
            return values[param]
        return param if isinstance(param, int) else min(max(float(f"{param:.{DIGITS}g}"), values.low), values.high)

    def _param(self, key: str, value: Any) -> Any:
        """Convert a value to an Optuna parameter: its index in a list, or the number itself."""
        values = self._space[key]
        return values.index(value) if isinstance(values, list) else value

    def covers(self, setting: Setting) -> bool:
        """Whether a setting lies in the search space."""
        return setting.values.keys() == self._space.keys() and all(
            value in values if isinstance(values, list) else _is_in_range(values, value)
            for (key, value) in setting.values.items()
            for values in [self._space[key]]
        )


def _distribution(values: list[Any] | Range) -> BaseDistribution:
    """Optuna distribution over a range, or over the indices of a list (Optuna cannot store every type of list item)."""
    if isinstance(values, list):
        return CategoricalDistribution(range(len(values)))
    if _is_integer(values):
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _is_integer(values: Range) -> bool:
    return isinstance(values.low, int) and isinstance(values.high, int)


def _is_in_range(values: Range, value: Any) -> bool:
    kinds = int if _is_integer(values) else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and values.low <= value <= values.high
