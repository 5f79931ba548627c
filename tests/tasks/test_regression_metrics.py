"""Metrics of regression, and their values on bootstrap resamples."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import r2_score

from ldarnet.tasks import regression_metrics
from ldarnet.tasks.metrics import REGRESSION, REGRESSION_METRICS, scores
from ldarnet.tasks.resampling import bootstrap, resamples, row_intervals

RNG = np.random.default_rng(0)
LABELS = RNG.normal(size=(30, 2)) * [1, 1000] + [0, 5000]
PREDICTIONS = LABELS + RNG.normal(size=(30, 2)) * [0.5, 900]


def test_metrics_equal_those_of_scipy_and_scikit_learn() -> None:
    found = scores(LABELS, PREDICTIONS, REGRESSION)
    columns = list(zip(LABELS.T, PREDICTIONS.T, strict=True))
    assert found["pearson"] == pytest.approx(np.mean([stats.pearsonr(*pair)[0] for pair in columns]))
    assert found["spearman"] == pytest.approx(np.mean([stats.spearmanr(*pair)[0] for pair in columns]))
    assert found["r2"] == pytest.approx(r2_score(LABELS, PREDICTIONS))


def test_constant_labels_are_undefined_and_constant_predictions_have_no_correlation() -> None:
    constant = np.column_stack([LABELS[:, 0], np.ones(30)])
    assert scores(constant, PREDICTIONS, REGRESSION) == {"pearson": None, "spearman": None, "r2": None}
    found = scores(LABELS[:, :1], np.ones((30, 1)), REGRESSION)
    assert found["pearson"] == found["spearman"] == 0


@pytest.mark.parametrize("name", sorted(name for name, one in REGRESSION_METRICS.items() if one.from_weights))
def test_values_on_resamples_equal_those_of_repeated_rows(name: str) -> None:
    weights = next(resamples(30))[:5]
    found = getattr(regression_metrics, f"weighted_{name}")(LABELS, PREDICTIONS, weights)
    for value, counts in zip(found, weights, strict=True):
        rows = np.repeat(np.arange(30), counts)
        assert value == pytest.approx(scores(LABELS[rows], PREDICTIONS[rows], REGRESSION)[name])
    assert bootstrap(LABELS, [PREDICTIONS], name)[:5] == pytest.approx(found)


def test_metrics_of_a_target_are_over_its_known_labels() -> None:
    labels = LABELS.copy()
    labels[RNG.random(30) < 0.3, 1] = np.nan
    known = ~np.isnan(labels[:, 1])
    found = scores(labels, PREDICTIONS, REGRESSION)
    for name, value in found.items():
        alone = (
            scores(labels[rows, column : column + 1], PREDICTIONS[rows, column : column + 1], REGRESSION)[name]
            for column, rows in ((0, np.arange(30)), (1, np.flatnonzero(known)))
        )
        assert value == pytest.approx(np.mean(list(alone)))
    weights = next(resamples(30))[:5]
    for name in ("pearson", "r2"):
        on_resamples = getattr(regression_metrics, f"weighted_{name}")(labels, PREDICTIONS, weights)
        for value, counts in zip(on_resamples, weights, strict=True):
            rows = np.repeat(np.arange(30), counts)
            assert value == pytest.approx(scores(labels[rows], PREDICTIONS[rows], REGRESSION)[name])


def test_a_target_without_labels_is_undefined() -> None:
    labels = np.column_stack([LABELS[:, 0], np.full(30, np.nan)])
    assert scores(labels, PREDICTIONS, REGRESSION) == {"pearson": None, "spearman": None, "r2": None}


def test_intervals_contain_the_metrics() -> None:
    found, exact = row_intervals(LABELS, PREDICTIONS, REGRESSION), scores(LABELS, PREDICTIONS, REGRESSION)
    assert found.keys() == {"pearson", "r2"}
    for name, limits in found.items():
        value = exact[name]
        assert limits is not None and value is not None and limits[0] < value < limits[1]
