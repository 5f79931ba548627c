"""Plateau schedule of a fold: learning-rate decay, best epoch, early stopping."""

import json

import pytest

from ldarnet.config import FinetuneConfig
from ldarnet.finetuning.plateau import PlateauSchedule


def build_schedule(plateau="rising", epochs=100, **schedule):
    tree = {
        "run": {"dir": "runs/x"},
        "task": "H3",
        "optimizer": {"lr": 1e-4},
        "schedule": {"plateau": plateau, **schedule},
        "training": {"epochs": epochs},
    }
    return PlateauSchedule(FinetuneConfig.model_validate(tree))


def factors(schedule, values):
    found = []
    for value in values:
        schedule.update(value, 1.0)
        found.append(schedule.factor)
    return found


RISING = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
FALLING = RISING[::-1]


def test_learning_rate_decays_when_validation_does_not_improve():
    assert factors(build_schedule(), RISING) == [1] * 7
    # The third epoch without improvement halves the learning rate.
    assert factors(build_schedule(), FALLING) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    assert factors(build_schedule(), [0.5] * 5) == [1, 1, 1, 0.5, 0.5]


def test_published_plateau_decays_while_validation_improves():
    assert factors(build_schedule("published"), RISING) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    assert factors(build_schedule("published"), FALLING) == [1] * 7


def test_patience_and_factor_are_configurable():
    assert factors(build_schedule(factor=0.1, patience=0), [0.5, 0.4]) == pytest.approx([1, 0.1])


def test_fold_ends_after_five_epochs_without_improvement():
    schedule = build_schedule()
    for number, value in enumerate([0.2, 0.5, 0.4, 0.5, 0.3, 0.4, 0.4], start=1):
        assert not schedule.over
        schedule.update(value, 1.0)
        assert (schedule.epoch, schedule.best_epoch) == (number, min(number, 2))
    assert schedule.over
    assert (schedule.best_epoch, schedule.best_value) == (2, 0.5)


def test_ties_are_broken_by_loss_and_a_falling_loss_is_an_improvement():
    schedule, published = build_schedule(), build_schedule("published")
    for loss in (0.69, 0.68, 0.67, 0.66, 0.65, 0.64, 0.66):
        schedule.update(0.0, loss)
        published.update(0.0, loss)
    assert (schedule.best_epoch, schedule.over, schedule.factor) == (6, False, 1)
    assert (published.best_epoch, published.over) == (1, True)
    schedule.update(0.1, 0.9)
    assert schedule.best_epoch == 8


def test_fold_ends_with_its_last_epoch():
    schedule = build_schedule(epochs=2)
    schedule.update(0.1, 1.0)
    assert not schedule.over
    schedule.update(0.2, 1.0)
    assert schedule.over


@pytest.mark.parametrize("plateau", ["rising", "published"])
@pytest.mark.parametrize("cut", range(8))
def test_resumed_schedule_equals_an_uninterrupted_one(plateau, cut):
    values = [0.3, 0.2, 0.2, 0.1, 0.4, 0.5, 0.6, 0.5]
    whole, first, second = build_schedule(plateau), build_schedule(plateau), build_schedule(plateau)
    expected = factors(whole, values)
    before = factors(first, values[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + factors(second, values[cut:]) == expected
    assert second.state_dict() == whole.state_dict()
    assert second.over == whole.over
