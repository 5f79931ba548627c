"""Early stopping among folds that may be compared."""

from types import SimpleNamespace
from typing import Any

from ldarnet.config.sweep import AshaSection
from ldarnet.sweeps.halving import Halving


class Rivals:
    """Trials that report to a scheduler."""

    def __init__(self) -> None:
        self.stopped: list[tuple[str, int]] = []
        config = AshaSection(grace=2, reduction=2)
        self.scheduler = Halving(config, 8, lambda job, epoch: self.stopped.append((job["setting"], epoch)))

    def report(self, name: str, score: float, *, task: str = "H3", fold: int = 0, final: bool = False, epochs: int = 3):
        job: dict[str, Any] = {"task": task, "fold": fold, "final": final, "setting": name}
        trial = SimpleNamespace(trial_id=f"{name} {task} {fold}", config=job)
        self.scheduler.on_trial_add(None, trial)
        for epoch in range(1, epochs + 1):
            if self.scheduler.on_trial_result(None, trial, {"epoch": epoch, "score": score}) == "STOP":
                return


def test_the_worse_of_rivals_is_stopped_after_the_grace():
    rivals = Rivals()
    rivals.report("good", 0.9)
    rivals.report("bad", 0.1)
    assert rivals.stopped == [("bad", 2)]


def test_other_tasks_and_other_folds_are_no_rivals():
    rivals = Rivals()
    rivals.report("good", 0.9)
    rivals.report("bad", 0.1, task="H4")
    rivals.report("bad", 0.1, fold=1)
    assert rivals.stopped == []


def test_a_fold_of_the_chosen_setting_is_never_stopped():
    rivals = Rivals()
    rivals.report("good", 0.9)
    rivals.report("chosen", 0.1, final=True)
    assert rivals.stopped == []


def test_folds_of_an_earlier_start_are_rivals():
    rivals = Rivals()
    rivals.scheduler.replay(("H3", 0), "earlier", {1: 0.8, 2: 0.9, 3: 0.9})
    rivals.report("bad", 0.1)
    assert rivals.stopped == [("bad", 2)]


def test_the_last_epoch_is_not_cut_short():
    rivals = Rivals()
    rivals.report("good", 0.9, epochs=8)
    rivals.report("late", 0.9, epochs=7)
    late = SimpleNamespace(trial_id="late H3 0", config={"task": "H3", "fold": 0, "final": False, "setting": "late"})
    assert rivals.scheduler.on_trial_result(None, late, {"epoch": 8, "score": 0.1}) == "CONTINUE"
    assert rivals.stopped == []
