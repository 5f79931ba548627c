"""ASHA compares only trials of the same task and fold."""

from types import SimpleNamespace
from typing import Any

from ldarnet.config.sweep import AshaSection
from ldarnet.sweeps.asha import GroupedAsha


class FakeTrials:
    """Trials that report to a scheduler."""

    def __init__(self) -> None:
        self.stopped: list[tuple[str, int]] = []
        config = AshaSection(grace=2, reduction=2)
        self.scheduler = GroupedAsha(config, 8, lambda job, epoch: self.stopped.append((job["setting"], epoch)))

    def report(self, name: str, score: float, *, task: str = "H3", fold: int = 0, final: bool = False, epochs: int = 3):
        job: dict[str, Any] = {"task": task, "fold": fold, "final": final, "setting": name}
        trial = SimpleNamespace(trial_id=f"{name} {task} {fold}", config=job)
        self.scheduler.on_trial_add(None, trial)
        for epoch in range(1, epochs + 1):
            if self.scheduler.on_trial_result(None, trial, {"epoch": epoch, "score": score}) == "STOP":
                return


def test_worse_trial_is_stopped_after_the_grace_period():
    trials = FakeTrials()
    trials.report("good", 0.9)
    trials.report("bad", 0.1)
    assert trials.stopped == [("bad", 2)]


def test_other_tasks_and_folds_are_not_compared():
    trials = FakeTrials()
    trials.report("good", 0.9)
    trials.report("bad", 0.1, task="H4")
    trials.report("bad", 0.1, fold=1)
    assert trials.stopped == []


def test_final_folds_are_never_stopped():
    trials = FakeTrials()
    trials.report("good", 0.9)
    trials.report("chosen", 0.1, final=True)
    assert trials.stopped == []


def test_folds_of_previous_launches_are_compared():
    trials = FakeTrials()
    trials.scheduler.replay(("H3", 0), "previous", {1: 0.8, 2: 0.9, 3: 0.9})
    trials.report("bad", 0.1)
    assert trials.stopped == [("bad", 2)]


def test_last_epoch_is_not_stopped():
    trials = FakeTrials()
    trials.report("good", 0.9, epochs=8)
    trials.report("late", 0.9, epochs=7)
    late = SimpleNamespace(trial_id="late H3 0", config={"task": "H3", "fold": 0, "final": False, "setting": "late"})
    assert trials.scheduler.on_trial_result(None, late, {"epoch": 8, "score": 0.1}) == "CONTINUE"
    assert trials.stopped == []
