"""Suggestions of Optuna for one task."""

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
"""Significant ones of a number that is drawn, so that the name of a setting says all of it."""
MOST_REPEATS = 100


class Study:
    """Tree-structured Parzen estimators over a space, for `trials` settings of one task.

    Args:
        space: list of values or range, by key.
        trials: settings to try, those that are known already included.
        seed: of the suggestions.
    """

    def __init__(self, space: Space, trials: int, seed: int) -> None:
        optuna_logging.set_verbosity(logging.WARNING)
        self._space, self._trials = space, trials
        self._study = create_study(direction="maximize", sampler=TPESampler(seed=seed))
        self._distributions = {key: _distribution(values) for key, values in space.items()}
        self._asked: dict[str, Trial] = {}

    def most_left(self, known: Sequence[Setting]) -> int:
        """How many more settings will be suggested at most."""
        return max(self._trials - len(known), 0)

    def propose(self, known: Sequence[Setting]) -> Setting | None:
        """A setting that is not known yet; None after `trials` of them, or when only known ones come."""
        names = {one.name for one in known}
        for _ in range(MOST_REPEATS if len(known) < self._trials else 0):
            trial = self._study.ask(self._distributions)
            new = setting({key: self._value(key, drawn) for key, drawn in trial.params.items()})
            if new.name not in names:
                self._asked[new.name] = trial
                return new
            self._study.tell(trial, state=TrialState.FAIL)
        return None

    def learn(self, setting: Setting, folds: Sequence[FoldStatus]) -> None:
        """Take note of the mean score; of one that was stopped or failed, only of how far it came."""
        scores = [fold.score for fold in folds if fold.score is not None]
        complete = len(scores) == len(folds)
        value = sum(scores) / len(scores) if complete else None
        stopped = next((fold for fold in folds if fold.state == "stopped"), None)
        state = TrialState.COMPLETE if complete else TrialState.PRUNED if stopped is not None else TrialState.FAIL
        steps = stopped.epochs if stopped is not None else {}
        if setting.name in self._asked:
            trial = self._asked.pop(setting.name)
            for epoch, score in steps.items():
                trial.report(score, epoch)
            self._study.tell(trial, value, state=state)
            return
        params = {key: self._drawn(key, value) for key, value in setting.values.items()}
        self._study.add_trial(
            create_trial(
                state=state,
                value=value,
                params=params,
                distributions=self._distributions,
                intermediate_values=steps,
            )
        )

    def _value(self, key: str, drawn: Any) -> Any:
        """What a draw means: the value at a place in a list, or a number rounded within its range."""
        values = self._space[key]
        if isinstance(values, list):
            return values[drawn]
        return drawn if isinstance(drawn, int) else min(max(float(f"{drawn:.{DIGITS}g}"), values.low), values.high)

    def _drawn(self, key: str, value: Any) -> Any:
        values = self._space[key]
        return values.index(value) if isinstance(values, list) else value

    def covers(self, setting: Setting) -> bool:
        """Whether a setting lies in the space."""
        return setting.values.keys() == self._space.keys() and all(
            value in values if isinstance(values, list) else _lies_in(values, value)
            for (key, value) in setting.values.items()
            for values in [self._space[key]]
        )


def _distribution(values: list[Any] | Range) -> BaseDistribution:
    """Of a list, places in it: Optuna keeps no choices but numbers and texts."""
    if isinstance(values, list):
        return CategoricalDistribution(range(len(values)))
    if _of_integers(values):
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _of_integers(values: Range) -> bool:
    return isinstance(values.low, int) and isinstance(values.high, int)


def _lies_in(values: Range, value: Any) -> bool:
    kinds = int if _of_integers(values) else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and values.low <= value <= values.high
