"""Order of the runs of an ablation, and choice of learning rates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.ablation.plan import AblationPlan, AblationRun, ArmPlan

TASKS = [("nt/H3", "probe"), ("nt/H3", "finetune")]


def plan_of(arms: int = 2, lrs: tuple[float, ...] = (0.001, 0.01), seeds: int = 2, **kwargs) -> AblationPlan:
    return AblationPlan([ArmPlan(f"arm{number}", lrs, range(seeds), TASKS, **kwargs) for number in range(arms)])


def end(plan: AblationPlan, run: AblationRun, outcome: str, loss: float = 1.0) -> None:
    status = plan.status(run)
    status.state = "finished" if outcome == "finished" else "failed"
    status.permanent = outcome == "user error"
    status.loss = loss if (run.kind, outcome) == ("lr", "finished") else None


def needs(run: AblationRun, plan: AblationPlan) -> list[AblationRun]:
    """Runs that must have ended before `run` starts."""
    arm = plan.arms[run.arm]
    kinds = {"lr": [], "pretrain": ["lr"], "finetune": ["lr"], "statistics": ["lr", "pretrain"]}[run.kind]
    found = [one for kind in kinds for one, _ in arm.of_kind(kind)]
    return found + ([AblationRun("pretrain", run.arm, seed=run.seed)] if run.kind == "finetune" else [])


@given(
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.lists(st.sampled_from(["finished", "finished", "user error", "lost"]), min_size=80, max_size=80),
    st.randoms(use_true_random=False),
)
def test_any_outcomes(arms: int, lrs: int, seeds: int, slots: int, outcomes: list[str], rng) -> None:
    """Runs start once, after the runs that they need; a failed arm does not change what other arms run."""
    plan = plan_of(arms, tuple(0.001 * (number + 1) for number in range(lrs)), seeds)
    running, ended = [], {}
    while True:
        while len(running) < slots and (run := plan.next()) is not None:
            assert run not in ended and run not in running
            assert all(one in ended for one in needs(run, plan))
            plan.status(run).state = "running"
            running.append(run)
        if not running:
            break
        run = running.pop(rng.randrange(len(running)))
        ended[run] = outcomes[len(ended)]
        end(plan, run, ended[run], loss=rng.random())
    for arm in plan.arms.values():
        of_arm = {run: outcome for run, outcome in ended.items() if run.arm == arm.name}
        assert arm.ended
        assert arm.done == (
            {run for run in arm.status if run.kind != "lr"}
            == {run for run, outcome in of_arm.items() if run.kind != "lr" and outcome == "finished"}
        )
        if set(of_arm.values()) <= {"finished"}:
            assert of_arm.keys() == arm.status.keys()
    assert plan.running == 0 and plan.done == all(arm.done for arm in plan.arms.values())


def drain(plan: AblationPlan) -> list[str]:
    order = []
    while (run := plan.next()) is not None:
        end(plan, run, "finished")
        order.append(str(run))
    return order


def test_first_seed_of_all_arms_comes_first() -> None:
    order = drain(plan_of())
    assert order[:4] == ["arm0 lr 0.001", "arm1 lr 0.001", "arm0 lr 0.01", "arm1 lr 0.01"] or order[:4] == [
        *("arm0 lr 0.001", "arm0 lr 0.01", "arm1 lr 0.001", "arm1 lr 0.01")
    ]
    assert order[4:6] == ["arm0 seed 0 pretraining", "arm1 seed 0 pretraining"]
    assert order.index("arm1 seed 0 nt/H3 finetune") < order.index("arm0 seed 1 pretraining")
    assert order[-2:] == ["arm0 statistics", "arm1 statistics"]
    assert len(order) == 2 * (2 + 2 * 3 + 1)


@pytest.mark.parametrize(
    ("losses", "chosen"), [((1.2, 1.1), 0.01), ((1.1, 1.1), 0.001), ((None, 1.1), 0.01), ((None, None), None)]
)
def test_lowest_loss_wins(losses: tuple[float | None, ...], chosen: float | None) -> None:
    plan = plan_of(1)
    for (run, _), loss in zip(plan.arms["arm0"].of_kind("lr"), losses, strict=True):
        assert plan.arms["arm0"].lr is None
        end(plan, run, "user error" if loss is None else "finished", loss or 0)
    assert plan.arms["arm0"].lr == chosen
    assert (plan.next() is None) == (chosen is None)


def test_learning_rate_is_not_chosen_after_a_failure_that_may_be_transient() -> None:
    plan = plan_of(1)
    first, second = (run for run, _ in plan.arms["arm0"].of_kind("lr"))
    end(plan, first, "finished")
    end(plan, second, "lost")
    assert plan.arms["arm0"].lr is None and plan.next() is None and plan.failed


def test_chosen_learning_rate_is_kept() -> None:
    plan = plan_of(1, chosen=0.001)
    for run, _ in plan.arms["arm0"].of_kind("lr"):
        plan.status(run).loss = 1 / (run.lr or 1)
    assert plan.arms["arm0"].lr == 0.001
    assert plan.next() == AblationRun("pretrain", "arm0", seed=0)
    assert plan.open == 7
