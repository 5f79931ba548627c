"""Tests over folds and the bootstrap over test rows, against hand-computed values and scipy."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ldarnet.comparison.resampling import interval_of_difference
from ldarnet.comparison.statistics import (
    corrected_t,
    detectable_difference,
    holm,
    mean_difference,
    signed_rank,
    welch,
    wins_and_ranks,
)
from ldarnet.tasks.metrics import METRICS
from ldarnet.tasks.resampling import _confusion_cells, bootstrap


def test_corrected_t_on_a_worked_example() -> None:
    differences = [0.01, 0.03, 0.02, 0.02]  # mean 0.02, variance 2e-4 / 3
    t = 0.02 / math.sqrt((1 / 4 + 100 / 900) * 2e-4 / 3)
    assert t == pytest.approx(4.0761, abs=1e-4)
    assert corrected_t(differences, 900, 100) == pytest.approx(2 * stats.t.sf(t, 3))


def test_corrected_t_without_test_rows_is_the_paired_t_test() -> None:
    ours, theirs = np.random.default_rng(0).normal(size=(2, 10))
    p = corrected_t(list(ours - theirs), train_rows=1, test_rows=0)
    assert p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    corrected = corrected_t(list(ours - theirs), train_rows=9, test_rows=1)
    assert corrected is not None and p is not None and corrected > p


def test_too_few_or_constant_folds_have_no_p_value() -> None:
    assert corrected_t([0.1, 0.2], 9, 1) is None
    assert corrected_t([0.1, 0.1, 0.1], 9, 1) is None
    assert corrected_t([a / 400 - b / 400 for a, b in ((301, 300), (304, 303), (307, 306))], 9, 1) is None
    assert signed_rank([0.1, 0.2]) is None
    assert signed_rank([0.0, 0.0, 0.0]) is None
    assert welch([0.1, 0.2], [0.2, 0.3, 0.4]) is None
    assert welch([0.1, 0.1, 0.1], [0.2, 0.2, 0.2]) is None


def test_signed_rank_and_welch_match_scipy() -> None:
    ours, theirs = np.random.default_rng(1).normal(size=(2, 10))
    assert signed_rank(list(ours - theirs)) == stats.wilcoxon(ours, theirs).pvalue
    assert signed_rank(list(range(1, 11))) == pytest.approx(2 / 2**10)
    assert welch(list(ours), list(theirs[:7])) == stats.ttest_ind(ours, theirs[:7], equal_var=False).pvalue


def test_holm() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == [pytest.approx(0.03), pytest.approx(0.06), None, pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_wins_and_ranks() -> None:
    found = wins_and_ranks({"a": [0.5, 0.9, 0.7], "b": [0.6, 0.8, 0.7], "c": [0.4, 0.7, 0.6]})
    assert found == {"a": (2, pytest.approx(4.5 / 3)), "b": (2, pytest.approx(4.5 / 3)), "c": (0, 3.0)}


def _confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix, (1, classes, classes)."""
    cells = _confusion_cells(labels, predicted, classes, np.arange(len(labels)))
    return cells.toarray().sum(axis=0).reshape(1, classes, classes)


@pytest.mark.parametrize("classes", [2, 3])
def test_metrics_from_confusion_match_scikit_learn(classes: int) -> None:
    labels, predicted = np.random.default_rng(2).integers(0, classes, size=(2, 50))
    counts = _confusion(labels, predicted, classes)
    found = {name: of(counts)[0] for name, metric in METRICS.items() if (of := metric.from_confusion) is not None}
    assert found["mcc"] == pytest.approx(matthews_corrcoef(labels, predicted))
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["f1"] == pytest.approx(f1_score(labels, predicted, average="weighted"))
    constant = _confusion(labels, 0 * labels, classes)
    of_mcc = METRICS["mcc"].from_confusion
    assert of_mcc is not None and of_mcc(constant)[0] == 0


def test_interval_over_test_rows_matches_a_paired_difference() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 400)
    ours, theirs = (np.stack([np.where(rng.random(400) < right, labels, 1 - labels)] * 2) for right in (0.9, 0.7))
    found = interval_of_difference(bootstrap(labels, ours, "accuracy"), bootstrap(labels, theirs, "accuracy"))
    assert found is not None
    low, high = found
    difference = (ours[0] == labels).astype(float) - (theirs[0] == labels)
    half = 1.96 * difference.std() / math.sqrt(400)
    assert low == pytest.approx(difference.mean() - half, abs=0.01)
    assert high == pytest.approx(difference.mean() + half, abs=0.01)
    assert interval_of_difference(bootstrap(labels, ours, "mcc"), bootstrap(labels, ours, "mcc")) == (0.0, 0.0)


@pytest.mark.parametrize("freedom", [4, 9, 29])
def test_detectable_difference_is_found_with_a_power_of_80_percent(freedom: int) -> None:
    """For few degrees of freedom the formula is slightly optimistic: the power is just below 0.8."""
    detectable = detectable_difference(1.0, freedom)
    limit = stats.t.ppf(0.975, freedom)
    power = stats.nct.sf(limit, freedom, detectable) + stats.nct.cdf(-limit, freedom, detectable)
    assert power == pytest.approx(0.8, abs=0.04)


def test_mean_difference_equals_the_paired_t_test() -> None:
    values = [0.1, 0.4, 0.25]
    found, expected = mean_difference(values), stats.ttest_1samp(values, 0)
    low, high = expected.confidence_interval()
    assert found.half is not None
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.detectable == pytest.approx(detectable_difference(np.std(values, ddof=1) / 3**0.5, 2))


@pytest.mark.parametrize("values", [[0.3], [0.2, 0.2, 0.2]])
def test_mean_difference_without_spread_has_no_test(values: list[float]) -> None:
    found = mean_difference(values)
    assert (found.count, found.half, found.p, found.detectable) == (len(values), None, None, None)


def test_correction_widens_the_interval() -> None:
    values = [0.1, 0.4, 0.25, 0.2]
    plain, corrected = mean_difference(values), mean_difference(values, 0.5)
    assert plain.half is not None
    assert corrected.half == pytest.approx(plain.half * ((1 / 4 + 0.5) / (1 / 4)) ** 0.5)
