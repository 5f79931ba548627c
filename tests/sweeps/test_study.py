"""Settings suggested by Optuna are repeatable and resume after a restart."""

import math

from ldarnet.config.sweep import Range
from ldarnet.sweeps.plan import FoldStatus, TaskPlan
from ldarnet.sweeps.settings import Setting
from ldarnet.sweeps.study import Study

SPACE = {"optimizer.lr": Range(low=1e-6, high=1e-2, log=True), "training.batch": [16, 32]}
BEST = 1e-4


def score(setting: Setting) -> float:
    return -abs(math.log10(setting.values["optimizer.lr"] / BEST))


def search(trials: int, known: dict[tuple[str, int], FoldStatus] | None = None, settings: list[Setting] | None = None):
    plan = TaskPlan("H3", settings or [], [0], [0], known, Study(SPACE, trials, seed=1))
    while (first := plan.next()) is not None:
        plan.mark(*first, "finished", score(first[0]))
    return plan


def test_suggestions_are_repeatable_and_converge():
    plan = search(40)
    assert [one.name for one in search(40).settings] == [one.name for one in plan.settings]
    assert len({one.name for one in plan.settings}) == 40
    assert all(1e-6 <= one.values["optimizer.lr"] <= 1e-2 for one in plan.settings)
    assert all(one.values["training.batch"] in (16, 32) for one in plan.settings)
    late = [score(one) for one in plan.settings[20:]]
    early = [score(one) for one in plan.settings[:10]]
    assert sum(late) / len(late) > sum(early) / len(early)
    assert abs(score(plan.chosen)) < 0.2


def test_restart_uses_known_settings_and_tries_the_rest():
    first = search(12)
    known = {(one.name, 0): first.fold(one, 0) for one in first.settings}
    again = search(30, known, first.settings)
    assert again.settings[:12] == first.settings and len(again.settings) == 30
    late = [score(one) for one in again.settings[12:]]
    assert sum(late) / len(late) > sum(score(one) for one in first.settings[:10]) / 10
    done = TaskPlan("H3", first.settings, [0], [0], known, Study(SPACE, 12, seed=1))
    assert done.done and done.chosen == first.chosen and done.max_remaining() == 0


def test_small_space_is_exhausted():
    study = Study({"training.batch": [16, 32]}, 10, seed=1)
    plan = TaskPlan("H3", [], [0], [0], {}, study)
    while (first := plan.next()) is not None:
        plan.mark(*first, "finished", 0.5)
    assert {one.name for one in plan.settings} == {"batch=16", "batch=32"}
    assert plan.done


def test_stopped_and_failed_settings_are_reported_to_optuna():
    study = Study(SPACE, 30, seed=1)
    plan = TaskPlan("H3", [], [0], [0], {}, study)
    number = 0
    while (first := plan.next()) is not None:
        number += 1
        if number % 7 == 0:
            plan.fail(*first, "diverged", permanent=True)
        elif number % 3 == 0:
            plan.fold(*first).epochs = {1: score(first[0])}
            plan.mark(*first, "stopped")
        else:
            plan.mark(*first, "finished", score(first[0]))
    assert len(plan.settings) == 30 and not plan.is_excluded(plan.chosen)


def test_study_covers_only_settings_of_the_space():
    study = Study(SPACE, 30, seed=1)
    inside = Setting("x", {"optimizer.lr": 1e-3, "training.batch": 16})
    assert study.covers(inside)
    assert not study.covers(Setting("x", inside.values | {"optimizer.lr": 1.0}))
    assert not study.covers(Setting("x", inside.values | {"training.batch": 64}))
    assert not study.covers(Setting("x", inside.values | {"optimizer.lr": None}))
    whole = Study({"training.epochs": Range(low=1, high=9)}, 30, seed=1)
    assert whole.covers(Setting("x", {"training.epochs": 3}))
    assert not whole.covers(Setting("x", {"training.epochs": 3.5}))
