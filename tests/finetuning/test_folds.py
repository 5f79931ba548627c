"""Cross-validation folds: the published folds by default, stratification, subsets, and errors."""

import numpy as np
import pytest
from sklearn.model_selection import KFold

from ldarnet.config.finetune import FoldsSection
from ldarnet.errors import UserError
from ldarnet.finetuning.folds import split, subset
from ldarnet.finetuning.targets import ClassTargets

LABELS = np.arange(203) % 5 // 4  # four of five rows have label 0


def folds(labels=LABELS, **settings):
    return split(labels, ["low", "high", "other"], FoldsSection(**settings))


def test_default_folds_are_the_published_ones():
    ours = folds()
    theirs = list(KFold(n_splits=10, shuffle=True, random_state=42).split(list(range(203))))
    assert len(ours) == 10
    for (train, valid), (their_train, their_valid) in zip(ours, theirs, strict=True):
        assert np.array_equal(train, their_train)
        assert np.array_equal(valid, their_valid)


@pytest.mark.parametrize("stratified", [False, True])
def test_every_row_is_validated_once_and_never_trained_on_in_that_fold(stratified):
    made = folds(count=7, stratified=stratified)
    assert sorted(np.concatenate([valid for _, valid in made])) == list(range(203))
    assert all(sorted([*train, *valid]) == list(range(203)) for train, valid in made)


def test_stratified_folds_keep_class_proportions():
    for train, valid in folds(count=4, stratified=True):
        assert LABELS[valid].mean() == pytest.approx(0.2, abs=0.02)
        assert LABELS[train].mean() == pytest.approx(0.2, abs=0.01)


def test_folds_depend_on_the_seed():
    assert not np.array_equal(folds()[0][1], folds(seed=1)[0][1])


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (LABELS[:12], {}, "12 training rows are too few for folds.count=10"),
        (np.arange(40) // 37, {"stratified": True}, r"class 'high' has 3 training rows, fewer than folds.count=10"),
    ],
)
def test_too_few_rows_are_rejected(labels, settings, message):
    with pytest.raises(UserError, match=message):
        folds(labels, **settings)


def test_single_class_is_detected():
    targets = ClassTargets(["no", "yes"])
    found = targets.constant(np.array([1, 1]))
    assert found is not None and found[0] == "of the single class 'yes'"
    assert targets.constant(np.array([0, 1])) is None


def test_subset_keeps_class_proportions_and_order():
    chosen = subset(LABELS, 50, seed=1)
    assert len(chosen) == 50
    assert list(chosen) == sorted(set(chosen))
    assert LABELS[chosen].sum() == 10
    assert np.array_equal(chosen, subset(LABELS, 50, seed=1))
    assert not np.array_equal(chosen, subset(LABELS, 50, seed=2))
    assert np.array_equal(subset(LABELS, 500, seed=1), np.arange(203))
    with pytest.raises(UserError, match=r"data\.limit=1"):
        subset(LABELS, 1, seed=1)


@pytest.mark.parametrize("limit", [3, 4, 10, 19])
def test_subset_keeps_a_row_of_every_class(limit):
    labels = np.array([0] * 15 + [1] * 4 + [2])
    drawn = labels[subset(labels, limit, seed=1)]
    assert len(drawn) == limit
    assert set(drawn) == {0, 1, 2}
