"""State of a sweep: status of each fold, next fold to train, and best setting.

The settings of a task are compared on its search folds by their mean validation metric; test metrics are never read.
The best setting is then trained on the remaining folds. This module uses neither Ray nor files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ldarnet.sweeps.settings import Setting

State = Literal["waiting", "queued", "running", "finished", "stopped", "failed"]


@dataclass
class FoldStatus:
    """Status of one fold of a task with one setting.

    Attributes:
        state: `queued` while the fold waits for resources of the Ray cluster; `stopped` if ASHA stopped it early.
        score: validation metric of the best epoch; None until the fold is finished.
        epochs: epoch -> best validation metric up to this epoch.
        reason: why the fold failed, if `state` is `failed`.
        permanent: whether a retry would fail in the same way, for example after a user error.
    """

    state: State = "waiting"
    score: float | None = None
    epochs: dict[int, float] = field(default_factory=dict)
    reason: str = ""
    permanent: bool = False


class Proposer(Protocol):
    """Suggests new settings for one task. The interface resembles the ask-and-tell interface of Optuna."""

    def ask(self, known: Sequence[Setting]) -> Setting | None:
        """Return a setting that is not in `known`; None if there are no more."""
        ...

    def tell(self, setting: Setting, folds: Sequence[FoldStatus]) -> None:
        """Record the results of a setting on the search folds; some folds may be unfinished."""
        ...

    def max_remaining(self, known: Sequence[Setting]) -> int:
        """Maximum number of settings that `ask` may still return."""
        ...


class TaskPlan:
    """Settings and folds of one task.

    Args:
        task: name of the task.
        settings: settings to compare, in the order in which to start them.
        folds: all folds of the task.
        search_folds: folds on which settings are compared.
        known: status of folds after previous launches, by (setting name, fold); folds that are not listed are waiting.
        proposer: suggests further settings; None to compare only `settings`.
    """

    def __init__(
        self,
        task: str,
        settings: Sequence[Setting],
        folds: Sequence[int],
        search_folds: Sequence[int],
        known: Mapping[tuple[str, int], FoldStatus] | None = None,
        proposer: Proposer | None = None,
    ) -> None:
        self.task, self.settings, self.folds = task, list(settings), list(folds)
        self.search_folds = list(search_folds)
        self.error, self._early_errors = "", set[str]()
        self._proposer, self._reported = proposer, set[str]()
        self._proposing = proposer is not None and proposer.max_remaining(self.settings) > 0
        self._status = {(setting.name, fold): FoldStatus() for setting in settings for fold in folds}
        self._status |= known or {}
        for setting in self.settings:
            self._tell(setting)

    def fold(self, setting: Setting, fold: int) -> FoldStatus:
        """Status of a fold."""
        return self._status[setting.name, fold]

    def all_folds(self) -> Iterator[tuple[Setting, int, FoldStatus]]:
        """Yield (setting, fold, status) for every fold of every setting."""
        for setting in self.settings:
            for fold in self.folds:
                yield setting, fold, self.fold(setting, fold)

    @property
    def running(self) -> int:
        """Number of queued and running folds."""
        return sum(status.state in ("queued", "running") for _, _, status in self.all_folds())

    def is_excluded(self, setting: Setting) -> bool:
        """Whether the setting cannot be chosen because a search fold was stopped or failed."""
        return any(self.fold(setting, fold).state in ("stopped", "failed") for fold in self.search_folds)

    def mean(self, setting: Setting) -> float | None:
        """Mean score over the search folds; None unless all are finished."""
        scores = [self.fold(setting, fold).score for fold in self.search_folds]
        finished = [score for score in scores if score is not None]
        return sum(finished) / len(finished) if len(finished) == len(scores) else None

    def search_ended(self, setting: Setting) -> bool:
        """Whether the setting has finished all search folds or is excluded."""
        return self.is_excluded(setting) or self.mean(setting) is not None

    def ranking(self) -> list[tuple[Setting, float]]:
        """Settings that finished all search folds, with their mean scores; best first, equal scores sorted by name."""
        complete = [(setting, mean) for setting in self.settings if (mean := self.mean(setting)) is not None]
        return sorted(complete, key=lambda pair: (-pair[1], pair[0].name))

    @property
    def chosen(self) -> Setting | None:
        """Best setting; None while the search is running, and None if no setting finished all search folds."""
        ranking = self.ranking()
        search_ended = all(self.search_ended(setting) for setting in self.settings)
        return ranking[0][0] if search_ended and not self._proposing and ranking else None

    @property
    def done(self) -> bool:
        """Whether the chosen setting has finished all folds."""
        chosen = self.chosen
        return chosen is not None and all(self.fold(chosen, fold).state == "finished" for fold in self.folds)

    @property
    def settled(self) -> bool:
        """Whether the task is done, none of its folds is queued or running, and no failed fold can be retried."""
        retryable = any(status.state == "failed" and not status.permanent for _, _, status in self.all_folds())
        return self.done and not self.running and not retryable

    def waiting(self) -> Iterator[tuple[Setting, int]]:
        """Yield the settings and folds that can start now, in the order in which to start them.

        All settings start the first search fold before any setting starts the second one, and so on. A setting that is
        stopped or fails skips the remaining search folds. All other folds come last, and only for the chosen setting.
        """
        if self.error:
            return
        for fold in self.search_folds:
            for setting in self.settings:
                if self.fold(setting, fold).state == "waiting" and not self.is_excluded(setting):
                    yield setting, fold
        if (chosen := self.chosen) is not None:
            yield from ((chosen, fold) for fold in self.folds if self.fold(chosen, fold).state == "waiting")

    def next(self) -> tuple[Setting, int] | None:
        """Return the next setting and fold to start; None if no fold can start now.

        If no fold of the known settings can start, ask the proposer for a new setting.
        """
        if (first := next(self.waiting(), None)) is not None or self.error:
            return first
        if self._proposer is not None and self._proposing:
            new = self._proposer.ask(self.settings)
            self._proposing = new is not None
            if new is not None:
                self.settings.append(new)
                self._status |= {(new.name, fold): FoldStatus() for fold in self.folds}
            return next(self.waiting(), None)
        return None

    def max_remaining(self) -> int:
        """Upper bound on the number of folds that will still be started."""
        if self.error:
            return 0
        proposals = self._proposer.max_remaining(self.settings) if self._proposer is not None and self._proposing else 0
        final = len(self.folds) - len(self.search_folds) if self.chosen is None else 0
        return sum(1 for _ in self.waiting()) + proposals * len(self.search_folds) + final

    def mark(self, setting: Setting, fold: int, state: State, score: float | None = None) -> None:
        """Set the state of a fold and, if it is finished, its score. For failed folds, use `fail`."""
        status = self.fold(setting, fold)
        status.state, status.score = state, score
        self._tell(setting)

    def fail(self, setting: Setting, fold: int, reason: str, *, permanent: bool, started_training: bool = True) -> None:
        """Mark a fold as failed.

        If two settings fail for the same reason before training starts, the cause is assumed to be independent of
        the setting, and the task is aborted.
        """
        status = self.fold(setting, fold)
        status.state, status.reason, status.permanent = "failed", reason, permanent
        if not started_training:
            self.error = self.error or (reason if reason in self._early_errors else "")
            self._early_errors.add(reason)
        self._tell(setting)

    def _tell(self, setting: Setting) -> None:
        """Report a setting to the proposer once its outcome on the search folds is known."""
        if self._proposer is not None and self.search_ended(setting) and setting.name not in self._reported:
            self._reported.add(setting.name)
            self._proposer.tell(setting, [self.fold(setting, fold) for fold in self.search_folds])


class SweepPlan:
    """All tasks of a sweep."""

    def __init__(self, tasks: Sequence[TaskPlan]) -> None:
        self.tasks = {plan.task: plan for plan in tasks}

    @property
    def running(self) -> int:
        """Number of queued and running folds."""
        return sum(plan.running for plan in self.tasks.values())

    def next(self) -> tuple[TaskPlan, Setting, int] | None:
        """Next fold to start. Tasks with fewer running folds come first. None if no fold can start now."""
        for plan in sorted(self.tasks.values(), key=lambda plan: plan.running):
            if (first := plan.next()) is not None:
                return plan, *first
        return None

    def count(self, state: State) -> int:
        """Number of folds in a state."""
        return sum(status.state == state for plan in self.tasks.values() for _, _, status in plan.all_folds())

    def max_remaining(self) -> int:
        """Upper bound on the number of folds that will still be started."""
        return sum(plan.max_remaining() for plan in self.tasks.values())
