"""What a sweep does next, and what it has chosen: plain bookkeeping that knows neither Ray nor files.

A task's settings are compared on its search folds by the mean of a validation metric; test numbers are never looked at.
The best one is then trained on the folds that are left.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ldarnet.sweeps.settings import Setting

State = Literal["waiting", "queued", "running", "finished", "stopped", "failed"]


@dataclass
class FoldStatus:
    """How far a fold of a task has come with one setting.

    Attributes:
        state: queued is one that Ray has no room for yet; stopped one that fell behind and was ended early.
        score: the validation metric of its best epoch, once it is finished.
        epochs: best validation metric up to each epoch.
        reason: why it failed.
        lasting: whether it would fail again: a mistake, or divergence.
    """

    state: State = "waiting"
    score: float | None = None
    epochs: dict[int, float] = field(default_factory=dict)
    reason: str = ""
    lasting: bool = False


class Proposer(Protocol):
    """Where new settings of a task come from."""

    def propose(self, known: Sequence[Setting]) -> Setting | None:
        """A setting that is not known yet; None if there is no more to try."""
        ...

    def learn(self, setting: Setting, folds: Sequence[FoldStatus]) -> None:
        """Take note of how a setting did on the search folds; one that was stopped or failed has not finished all."""
        ...

    def most_left(self, known: Sequence[Setting]) -> int:
        """How many more there will be at most."""
        ...


class TaskPlan:
    """The settings and folds of one task.

    Args:
        task: its name.
        settings: to compare, in the order in which they are begun.
        folds: all folds of the task.
        search_folds: the ones that settings are compared on.
        known: folds that were begun earlier, by name of setting and fold.
        proposer: adds settings, if any.
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
        self.mistake, self._early = "", set[str]()
        self._proposer, self._learnt = proposer, set[str]()
        self._proposing = proposer is not None and proposer.most_left(self.settings) > 0
        self._cells = {(one.name, fold): FoldStatus() for one in settings for fold in folds} | dict(known or {})
        for one in self.settings:
            self._learn(one)

    def fold(self, setting: Setting, fold: int) -> FoldStatus:
        """How far it has come."""
        return self._cells[setting.name, fold]

    def cells(self) -> Iterator[tuple[Setting, int, FoldStatus]]:
        """All folds of all settings."""
        for one in self.settings:
            for fold in self.folds:
                yield one, fold, self.fold(one, fold)

    @property
    def running(self) -> int:
        """How many folds are under way, or will be next."""
        return sum(cell.state in ("queued", "running") for _, _, cell in self.cells())

    def is_out(self, setting: Setting) -> bool:
        """Whether it cannot be chosen, because a search fold was stopped or has failed."""
        return any(self.fold(setting, fold).state in ("stopped", "failed") for fold in self.search_folds)

    def mean(self, setting: Setting) -> float | None:
        """The mean score over the search folds; None unless all are finished."""
        scores = [self.fold(setting, fold).score for fold in self.search_folds]
        numbers = [score for score in scores if score is not None]
        return sum(numbers) / len(numbers) if len(numbers) == len(scores) else None

    def ranking(self) -> list[tuple[Setting, float]]:
        """Settings that have finished all search folds with their mean score, the best first; equals by name."""
        complete = [(one, mean) for one in self.settings if (mean := self.mean(one)) is not None]
        return sorted(complete, key=lambda pair: (-pair[1], pair[0].name))

    @property
    def chosen(self) -> Setting | None:
        """The first of the ranking, once every setting has finished the search folds or is out."""
        ranking = self.ranking()
        over = not self._proposing and all(self.is_out(one) or self.mean(one) is not None for one in self.settings)
        return ranking[0][0] if over and ranking else None

    @property
    def done(self) -> bool:
        """Whether the chosen setting has finished all folds."""
        chosen = self.chosen
        return chosen is not None and all(self.fold(chosen, fold).state == "finished" for fold in self.folds)

    @property
    def settled(self) -> bool:
        """Whether it is done, and no other fold is under way or would be tried again by another start."""
        lost = any(cell.state == "failed" and not cell.lasting for _, _, cell in self.cells())
        return self.done and not self.running and not lost

    def waiting(self) -> Iterator[tuple[Setting, int]]:
        """The folds to begin, in their order, as far as is known.

        All settings go through one search fold before the next: one that is stopped or fails there is not tried on
        others. What is left of the chosen setting comes last.
        """
        if self.mistake:
            return
        for fold in self.search_folds:
            for one in self.settings:
                if self.fold(one, fold).state == "waiting" and not self.is_out(one):
                    yield one, fold
        if (chosen := self.chosen) is not None:
            yield from ((chosen, fold) for fold in self.folds if self.fold(chosen, fold).state == "waiting")

    def next(self) -> tuple[Setting, int] | None:
        """The fold to begin next, perhaps with a new setting; None if there is none, or none yet."""
        if (first := next(self.waiting(), None)) is not None or self.mistake:
            return first
        if self._proposer is not None and self._proposing:
            new = self._proposer.propose(self.settings)
            self._proposing = new is not None
            if new is not None:
                self.settings.append(new)
                self._cells |= {(new.name, fold): FoldStatus() for fold in self.folds}
            return next(self.waiting(), None)
        return None

    def most_left(self) -> int:
        """How many folds are still to be begun at most."""
        if self.mistake:
            return 0
        proposals = self._proposer.most_left(self.settings) if self._proposer is not None and self._proposing else 0
        final = len(self.folds) - len(self.search_folds) if self.chosen is None else 0
        return sum(1 for _ in self.waiting()) + proposals * len(self.search_folds) + final

    def mark(self, setting: Setting, fold: int, state: State, score: float | None = None) -> None:
        """A fold is now queued, running, stopped, or finished with a score."""
        cell = self.fold(setting, fold)
        cell.state, cell.score = state, score
        self._learn(setting)

    def fail(self, setting: Setting, fold: int, reason: str, *, lasting: bool, began: bool = True) -> None:
        """A fold has failed, and perhaps would again.

        What ends two settings before they have begun to train is a mistake in what they share, and ends the task.
        """
        cell = self.fold(setting, fold)
        cell.state, cell.reason, cell.lasting = "failed", reason, lasting
        if not began:
            self.mistake = self.mistake or (reason if reason in self._early else "")
            self._early.add(reason)
        self._learn(setting)

    def _learn(self, setting: Setting) -> None:
        known = self.is_out(setting) or self.mean(setting) is not None
        if self._proposer is not None and known and setting.name not in self._learnt:
            self._learnt.add(setting.name)
            self._proposer.learn(setting, [self.fold(setting, fold) for fold in self.search_folds])


class SweepPlan:
    """All tasks of a sweep.

    Args:
        tasks: each with its settings and folds.
    """

    def __init__(self, tasks: Sequence[TaskPlan]) -> None:
        self.tasks = {plan.task: plan for plan in tasks}

    @property
    def running(self) -> int:
        """How many folds are under way, or will be next."""
        return sum(plan.running for plan in self.tasks.values())

    def next(self) -> tuple[TaskPlan, Setting, int] | None:
        """The fold to begin next, of the task with the fewest under way; None if there is none, or none yet."""
        for plan in sorted(self.tasks.values(), key=lambda plan: plan.running):
            if (first := plan.next()) is not None:
                return plan, *first
        return None

    def count(self, state: State) -> int:
        """How many folds are in a state."""
        return sum(cell.state == state for plan in self.tasks.values() for _, _, cell in plan.cells())

    def most_left(self) -> int:
        """How many folds are still to be begun at most."""
        return sum(plan.most_left() for plan in self.tasks.values())
