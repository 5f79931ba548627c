"""What a sweep does next, and what it chooses."""

import pytest

from ldarnet.sweeps.plan import FoldStatus, SweepPlan, TaskPlan
from ldarnet.sweeps.report import _choice as choice
from ldarnet.sweeps.settings import setting

A, B, C = (setting({"optimizer.lr": lr}) for lr in (1e-5, 1e-4, 1e-3))


def task(name: str = "H3", folds: int = 3, search: list[int] | None = None, **kwargs) -> TaskPlan:
    return TaskPlan(name, [A, B, C], range(folds), range(folds) if search is None else search, **kwargs)


def do(plan: TaskPlan, scores: dict[tuple[str, int], float | str]) -> list[tuple[str, int]]:
    """Go through a plan one fold at a time: a number finishes it, a word is its state; returns the order."""
    order = []
    while (first := plan.next()) is not None:
        one, fold = first
        outcome = scores.get((one.name, fold), 0.5)
        if outcome == "failed":
            plan.fail(one, fold, "diverged", lasting=True)
        elif outcome == "stopped":
            plan.mark(one, fold, "stopped")
        else:
            plan.mark(one, fold, "finished", outcome)
        order.append((one.name, fold))
    return order


def test_all_settings_go_through_one_fold_before_the_next():
    assert do(task(folds=2), {}) == [(one.name, fold) for fold in (0, 1) for one in (A, B, C)]


def test_the_best_mean_is_chosen_not_the_best_fold():
    plan = task(folds=2)
    do(plan, {(A.name, 0): 0.9, (A.name, 1): 0.1, (B.name, 0): 0.6, (B.name, 1): 0.6, (C.name, 0): 0.5})
    assert plan.chosen == B and plan.done
    assert [one for one, _ in plan.ranking()] == [B, C, A]


@pytest.mark.parametrize(("scores", "blind"), [((0.4, 0.2), 0), ((0.4, 0.0), 1), ((0.0, -0.1), 2)])
def test_folds_in_which_the_chosen_setting_learned_nothing_are_told(scores, blind):
    plan = TaskPlan("H3", [A], range(2), range(2))
    do(plan, {(A.name, fold): score for fold, score in enumerate(scores)})
    told = f"; no better than chance in {blind} of them, where nothing was learned"
    assert (told in choice(plan, "mcc")) == (blind > 0)
    assert "chance" not in choice(plan, "accuracy")


def test_of_equals_the_same_is_chosen_in_whatever_order_they_are_known():
    plans = [TaskPlan("H3", order, [0], [0]) for order in ([A, B, C], [C, B, A])]
    for plan in plans:
        do(plan, {})
    assert plans[0].chosen == plans[1].chosen


def test_a_task_is_settled_when_nothing_else_may_come():
    plan = task(folds=1)
    plan.mark(A, 0, "finished", 0.5)
    plan.fail(B, 0, "killed", lasting=False)
    plan.mark(C, 0, "stopped")
    assert plan.done and not plan.settled
    plan.fail(B, 0, "diverged", lasting=True)
    assert plan.settled
    plan = task(folds=2)
    plan.mark(B, 0, "running")
    plan.mark(B, 1, "stopped")
    for one, score in ((A, 0.5), (C, 0.4)):
        for fold in (0, 1):
            plan.mark(one, fold, "finished", score)
    assert plan.done and not plan.settled


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_a_setting_that_is_stopped_or_fails_is_tried_no_further_and_not_chosen(state: str):
    plan = task()
    order = do(plan, {(B.name, 0): 0.9, (B.name, 1): state, (A.name, 0): 0.6})
    assert (B.name, 2) not in order
    assert plan.chosen == A


def test_the_chosen_setting_alone_is_trained_on_the_other_folds():
    plan = task(folds=4, search=[1, 3])
    order = do(plan, {(C.name, 1): 0.9, (C.name, 3): 0.9, (A.name, 0): 1.0})
    assert order[6:] == [(C.name, 0), (C.name, 2)]
    assert plan.done


def test_folds_outside_of_the_search_do_not_change_the_choice():
    plan = task(folds=2, search=[0])
    do(plan, {(A.name, 0): 0.6, (A.name, 1): 0.0})
    assert plan.chosen == A and plan.mean(A) == 0.6


def test_nothing_is_chosen_before_every_setting_has_finished():
    plan = task(folds=1)
    for one in (A, B):
        plan.mark(one, 0, "finished", 0.5)
    plan.mark(C, 0, "running")
    assert plan.chosen is None and plan.next() is None
    plan.mark(C, 0, "finished", 0.7)
    assert plan.chosen == C


def test_what_is_known_from_earlier_is_not_done_again():
    known = {(A.name, 0): FoldStatus("finished", 0.9), (B.name, 0): FoldStatus("stopped")}
    plan = task(folds=2, known=known)
    assert plan.most_left() == 3
    assert do(plan, {}) == [(C.name, 0), (A.name, 1), (C.name, 1)]
    assert plan.chosen == A


def test_a_mistake_of_one_setting_is_its_own_and_that_of_two_before_training_ends_the_task():
    plan = task()
    plan.fail(A, 0, "no such file", lasting=True, began=False)
    plan.fail(B, 0, "diverged", lasting=True)
    assert plan.next() == (C, 0)
    plan.fail(C, 0, "no such file", lasting=True, began=False)
    assert plan.next() is None and plan.most_left() == 0 and plan.chosen is None


def test_tasks_share_the_room_evenly():
    plan = SweepPlan([task("H3"), task("H4"), task("H4ac")])
    begun = []
    while len(begun) < 5 and (first := plan.next()) is not None:
        of, one, fold = first
        of.mark(one, fold, "queued")
        begun.append(of.task)
    assert begun == ["H3", "H4", "H4ac", "H3", "H4"]


def test_what_is_left_is_counted():
    plan = task(folds=4, search=[0, 1])
    assert plan.most_left() == 3 * 2 + 2
    do(plan, {})
    assert plan.most_left() == 0
