"""The course of a fold: when the rate falls, which epoch is best, and when it ends."""

import json

import pytest

from ldarnet.config import FinetuneConfig
from ldarnet.finetuning.plateau import PlateauSchedule


def course(plateau="rising", epochs=100, **schedule):
    tree = {
        "run": {"dir": "runs/x"},
        "task": "H3",
        "optimizer": {"lr": 1e-4},
        "schedule": {"plateau": plateau, **schedule},
        "training": {"epochs": epochs},
    }
    return PlateauSchedule(FinetuneConfig.model_validate(tree))


def factors(made, values):
    found = []
    for value in values:
        made.update(value, 1.0)
        found.append(made.factor)
    return found


RISING = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
FALLING = RISING[::-1]


def test_the_rate_falls_when_validation_gets_no_better():
    assert factors(course(), RISING) == [1] * 7
    # Two epochs that are not better are let pass; the third halves.
    assert factors(course(), FALLING) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    assert factors(course(), [0.5] * 5) == [1, 1, 1, 0.5, 0.5]


def test_the_published_plateau_halves_while_validation_gets_better():
    assert factors(course("published"), RISING) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    assert factors(course("published"), FALLING) == [1] * 7


def test_patience_and_factor_are_those_of_the_configuration():
    assert factors(course(factor=0.1, patience=0), [0.5, 0.4]) == pytest.approx([1, 0.1])


def test_a_fold_ends_after_five_epochs_that_are_not_the_best():
    made = course()
    for number, value in enumerate([0.2, 0.5, 0.4, 0.5, 0.3, 0.4, 0.4], start=1):
        assert not made.over
        made.update(value, 1.0)
        assert (made.epoch, made.best_epoch) == (number, min(number, 2))
    assert made.over
    assert (made.best_epoch, made.best_value) == (2, 0.5)


def test_of_equal_epochs_the_one_with_the_lowest_loss_is_best_and_a_falling_loss_goes_on():
    made, published = course(), course("published")
    for loss in (0.69, 0.68, 0.67, 0.66, 0.65, 0.64, 0.66):
        made.update(0.0, loss)
        published.update(0.0, loss)
    assert (made.best_epoch, made.over, made.factor) == (6, False, 1)
    assert (published.best_epoch, published.over) == (1, True)
    made.update(0.1, 0.9)
    assert made.best_epoch == 8


def test_a_fold_ends_with_its_last_epoch():
    made = course(epochs=2)
    made.update(0.1, 1.0)
    assert not made.over
    made.update(0.2, 1.0)
    assert made.over


@pytest.mark.parametrize("plateau", ["rising", "published"])
@pytest.mark.parametrize("cut", range(8))
def test_a_course_goes_on_from_its_memory(plateau, cut):
    values = [0.3, 0.2, 0.2, 0.1, 0.4, 0.5, 0.6, 0.5]
    whole, first, second = course(plateau), course(plateau), course(plateau)
    expected = factors(whole, values)
    before = factors(first, values[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + factors(second, values[cut:]) == expected
    assert second.state_dict() == whole.state_dict()
    assert second.over == whole.over
