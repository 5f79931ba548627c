"""Runs of an ablation and their order. This module uses neither Ray nor files.

The runs of an arm depend on each other: learning rate search, then pretraining with every seed, then fine-tuning, and
statistics once all seeds are pretrained. Arms are independent, and a failed run stops only the runs that need it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

RunState = Literal["waiting", "queued", "running", "finished", "failed"]
Kind = Literal["lr", "pretrain", "finetune", "statistics"]
KINDS: tuple[Kind, ...] = ("lr", "pretrain", "finetune", "statistics")


@dataclass(frozen=True)
class AblationRun:
    """A run of an ablation.

    Attributes:
        kind: lr for a run of the learning rate search.
        arm: name of the arm.
        lr: learning rate, for `kind` lr.
        seed: seed, for `kind` pretrain and finetune.
        task, mode: task and fine-tuning mode, for `kind` finetune.
    """

    kind: Kind
    arm: str
    lr: float | None = None
    seed: int | None = None
    task: str | None = None
    mode: str | None = None

    def __str__(self) -> str:
        if self.kind == "lr":
            return f"{self.arm} lr {self.lr:g}"
        if self.kind == "statistics":
            return f"{self.arm} statistics"
        return f"{self.arm} seed {self.seed} " + (f"{self.task} {self.mode}" if self.task else "pretraining")


@dataclass
class RunStatus:
    """Status of a run.

    Attributes:
        state: `queued` while the run waits for resources of the Ray cluster.
        loss: final validation loss of a finished run of the learning rate search.
        reason: why the run failed.
        permanent: whether a retry would fail in the same way.
    """

    state: RunState = "waiting"
    loss: float | None = None
    reason: str = ""
    permanent: bool = False

    @property
    def settled(self) -> bool:
        """Whether the run has finished, or failed and a retry would fail in the same way."""
        return self.state == "finished" or (self.state == "failed" and self.permanent)


class ArmPlan:
    """Runs of one arm.

    Args:
        name: name of the arm.
        lrs: learning rates to search; with fewer than two, there is no search.
        seeds: seeds of the pretraining runs.
        downstream: tasks and modes to fine-tune on.
        chosen: learning rate chosen in a previous launch, which is kept; None to choose.
    """

    def __init__(
        self,
        name: str,
        lrs: Sequence[float],
        seeds: Sequence[int],
        downstream: Sequence[tuple[str, str]],
        chosen: float | None = None,
    ) -> None:
        self.name, self.seeds, self._chosen = name, list(seeds), chosen
        self.lrs = list(lrs) if len(lrs) > 1 else []
        runs = [AblationRun("lr", name, lr=lr) for lr in self.lrs]
        for seed in seeds:
            runs.append(AblationRun("pretrain", name, seed=seed))
            runs += [AblationRun("finetune", name, seed=seed, task=task, mode=mode) for task, mode in downstream]
        runs.append(AblationRun("statistics", name))
        self.status = {run: RunStatus() for run in runs}

    @property
    def lr(self) -> float | None:
        """Learning rate of the search with the lowest loss; None while the search runs and if there is no search.

        Of equal losses, the lowest learning rate wins.
        """
        if self._chosen is None and self._searched():
            losses = [(status.loss, run.lr) for run, status in self.of_kind("lr") if status.loss is not None]
            self._chosen = min(losses)[1] if losses else None
        return self._chosen

    def of_kind(self, kind: Kind) -> list[tuple[AblationRun, RunStatus]]:
        """Runs of a kind."""
        return [(run, status) for run, status in self.status.items() if run.kind == kind]

    def ready(self, run: AblationRun) -> bool:
        """Whether the runs that a run needs have ended as required."""
        if run.kind == "lr":
            return self._chosen is None
        if run.kind == "pretrain":
            return not self.lrs or self.lr is not None
        pretrained = [(one.seed, status) for one, status in self.of_kind("pretrain")]
        if run.kind == "finetune":
            return any(seed == run.seed and status.state == "finished" for seed, status in pretrained)
        finished = any(status.state == "finished" for _, status in pretrained)
        return finished and all(status.settled for _, status in pretrained)

    @property
    def pretrained(self) -> bool:
        """Whether all seeds are pretrained."""
        return all(status.state == "finished" for _, status in self.of_kind("pretrain"))

    @property
    def done(self) -> bool:
        """Whether pretraining, fine-tuning and statistics are finished."""
        return all(status.state == "finished" for run, status in self.status.items() if run.kind != "lr")

    @property
    def ended(self) -> bool:
        """Whether no run is queued or running, and none can start."""
        return not any(
            status.state in ("queued", "running") or (status.state == "waiting" and self.ready(run))
            for run, status in self.status.items()
        )

    def blocked(self) -> bool:
        """Whether a run waits for one that failed for a reason that may be transient."""
        return any(status.state == "failed" and not status.permanent for status in self._required())

    def _required(self) -> Iterator[RunStatus]:
        for run, status in self.status.items():
            if run.kind != "lr" or self._chosen is None:
                yield status

    def _searched(self) -> bool:
        """Whether every run of the search has finished or failed with an error of the user, such as divergence."""
        search = [status for _, status in self.of_kind("lr")]
        return bool(search) and all(status.settled for status in search)


class AblationPlan:
    """Runs of all arms."""

    def __init__(self, arms: Sequence[ArmPlan]) -> None:
        self.arms = {arm.name: arm for arm in arms}
        self._order = {run: number for number, run in enumerate(sorted(self.runs(), key=self._priority))}

    def runs(self) -> Iterator[AblationRun]:
        """Yield all runs."""
        for arm in self.arms.values():
            yield from arm.status

    def status(self, run: AblationRun) -> RunStatus:
        """Status of a run."""
        return self.arms[run.arm].status[run]

    def next(self) -> AblationRun | None:
        """Next run to start; None if no run can start now.

        The first seed of every arm comes before the second seed of any arm, so that an early report compares all arms.
        """
        waiting = (run for run in self._order if self.status(run).state == "waiting")
        return next((run for run in waiting if self.arms[run.arm].ready(run)), None)

    @property
    def running(self) -> int:
        """Number of queued and running runs."""
        return self.count("queued") + self.count("running")

    def count(self, state: RunState) -> int:
        """Number of runs in a state."""
        return sum(self.status(run).state == state for run in self.runs())

    @property
    def open(self) -> int:
        """Number of runs that may still start; an upper bound, because a failed run stops those that need it."""
        search_over = {name for name, arm in self.arms.items() if arm.lr is not None}
        return sum(
            self.status(run).state == "waiting" and not (run.kind == "lr" and run.arm in search_over)
            for run in self.runs()
        )

    @property
    def done(self) -> bool:
        """Whether all arms are done."""
        return all(arm.done for arm in self.arms.values())

    @property
    def failed(self) -> bool:
        """Whether a run failed for a reason that may be transient."""
        return any(arm.blocked() for arm in self.arms.values())

    def _priority(self, run: AblationRun) -> tuple[int, int, int]:
        arm = self.arms[run.arm]
        turn = (
            -1 if run.kind == "lr" else len(arm.seeds) if run.kind == "statistics" else arm.seeds.index(run.seed or 0)
        )
        return turn, KINDS.index(run.kind), list(self.arms).index(run.arm)
