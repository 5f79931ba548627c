"""Order of trials and choice of settings in a sweep."""

import pytest

from ldarnet.sweeps.plan import FoldStatus, SweepPlan, TaskPlan
from ldarnet.sweeps.report import _choice as choice
from ldarnet.sweeps.settings import setting

A, B, C = (setting({"optimizer.lr": lr}) for lr in (1e-5, 1e-4, 1e-3))


def task(name: str = "H3", folds: int = 3, search: list[int] | None = None, **kwargs) -> TaskPlan:
    return TaskPlan(name, [A, B, C], range(folds), range(folds) if search is None else search, **kwargs)


def run(plan: TaskPlan, scores: dict[tuple[str, int], float | str]) -> list[tuple[str, int]]:
    """Run a plan fold by fold and return the order; `scores` gives a fold's score or its final state."""
    order = []
    while (first := plan.next()) is not None:
        one, fold = first
        outcome = scores.get((one.name, fold), 0.5)
        if outcome == "failed":
            plan.fail(one, fold, "diverged", permanent=True)
        elif outcome == "stopped":
            plan.mark(one, fold, "stopped")
        else:
            plan.mark(one, fold, "finished", outcome)
        order.append((one.name, fold))
    return order


def test_all_settings_are_trained_on_one_fold_before_the_next():
    assert run(task(folds=2), {}) == [(one.name, fold) for fold in (0, 1) for one in (A, B, C)]


def test_best_mean_is_chosen():
    plan = task(folds=2)
    run(plan, {(A.name, 0): 0.9, (A.name, 1): 0.1, (B.name, 0): 0.6, (B.name, 1): 0.6, (C.name, 0): 0.5})
    assert plan.chosen == B and plan.done
    assert [one for one, _ in plan.ranking()] == [B, C, A]


@pytest.mark.parametrize(("scores", "at_chance"), [((0.4, 0.2), 0), ((0.4, 0.0), 1), ((0.0, -0.1), 2)])
def test_folds_at_chance_level_are_reported(scores, at_chance):
    plan = TaskPlan("H3", [A], range(2), range(2))
    run(plan, {(A.name, fold): score for fold, score in enumerate(scores)})
    assert (f"; no better than chance on {at_chance} of 2 folds" in choice(plan, "mcc")) == (at_chance > 0)
    assert "chance" not in choice(plan, "accuracy")


def test_ties_are_broken_independently_of_the_order():
    plans = [TaskPlan("H3", order, [0], [0]) for order in ([A, B, C], [C, B, A])]
    for plan in plans:
        run(plan, {})
    assert plans[0].chosen == plans[1].chosen


def test_task_is_settled_when_no_fold_is_running_or_retryable():
    plan = task(folds=1)
    plan.mark(A, 0, "finished", 0.5)
    plan.fail(B, 0, "killed", permanent=False)
    plan.mark(C, 0, "stopped")
    assert plan.done and not plan.settled
    plan.fail(B, 0, "diverged", permanent=True)
    assert plan.settled
    plan = task(folds=2)
    plan.mark(B, 0, "running")
    plan.mark(B, 1, "stopped")
    for one, score in ((A, 0.5), (C, 0.4)):
        for fold in (0, 1):
            plan.mark(one, fold, "finished", score)
    assert plan.done and not plan.settled


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_stopped_or_failed_setting_skips_other_folds_and_is_not_chosen(state: str):
    plan = task()
    order = run(plan, {(B.name, 0): 0.9, (B.name, 1): state, (A.name, 0): 0.6})
    assert (B.name, 2) not in order
    assert plan.chosen == A


def test_only_the_chosen_setting_is_trained_on_the_remaining_folds():
    plan = task(folds=4, search=[1, 3])
    order = run(plan, {(C.name, 1): 0.9, (C.name, 3): 0.9, (A.name, 0): 1.0})
    assert order[6:] == [(C.name, 0), (C.name, 2)]
    assert plan.done


def test_folds_outside_the_search_do_not_change_the_choice():
    plan = task(folds=2, search=[0])
    run(plan, {(A.name, 0): 0.6, (A.name, 1): 0.0})
    assert plan.chosen == A and plan.mean(A) == 0.6


def test_no_setting_is_chosen_before_all_have_finished():
    plan = task(folds=1)
    for one in (A, B):
        plan.mark(one, 0, "finished", 0.5)
    plan.mark(C, 0, "running")
    assert plan.chosen is None and plan.next() is None
    plan.mark(C, 0, "finished", 0.7)
    assert plan.chosen == C


def test_known_folds_are_not_trained_again():
    known = {(A.name, 0): FoldStatus("finished", 0.9), (B.name, 0): FoldStatus("stopped")}
    plan = task(folds=2, known=known)
    assert plan.max_remaining() == 3
    assert run(plan, {}) == [(C.name, 0), (A.name, 1), (C.name, 1)]
    assert plan.chosen == A


def test_same_error_of_two_settings_before_training_ends_the_task():
    plan = task()
    plan.fail(A, 0, "no such file", permanent=True, started_training=False)
    plan.fail(B, 0, "diverged", permanent=True)
    assert plan.next() == (C, 0)
    plan.fail(C, 0, "no such file", permanent=True, started_training=False)
    assert plan.next() is None and plan.max_remaining() == 0 and plan.chosen is None


def test_tasks_are_interleaved():
    plan = SweepPlan([task("H3"), task("H4"), task("H4ac")])
    started = []
    while len(started) < 5 and (first := plan.next()) is not None:
        of, one, fold = first
        of.mark(one, fold, "queued")
        started.append(of.task)
    assert started == ["H3", "H4", "H4ac", "H3", "H4"]


def test_remaining_folds_are_counted():
    plan = task(folds=4, search=[0, 1])
    assert plan.max_remaining() == 3 * 2 + 2
    run(plan, {})
    assert plan.max_remaining() == 0
