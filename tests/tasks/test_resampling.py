"""The bootstrap over test rows: weighted metrics against scikit-learn, and intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from ldarnet.tasks import resampling
from ldarnet.tasks.metrics import METRICS, scores
from ldarnet.tasks.resampling import bootstrap, resamples, row_intervals


def random_rows(rows: int, classes: int, seed: int, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Labels and class probabilities that favor the label; with `levels`, probabilities have many ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    raw = rng.random((rows, classes)) + 0.5 * np.eye(classes)[labels]
    raw = raw if levels is None else 1 + np.round(raw * levels)
    return labels, raw / raw.sum(1, keepdims=True)


@given(st.integers(2, 60), st.integers(0, 10**6), st.sampled_from([None, 3]))
@settings(max_examples=60, deadline=None)
def test_weighted_ranking_equals_scikit_learn(rows: int, seed: int, levels: int | None) -> None:
    labels, probabilities = random_rows(rows, 2, seed, levels)
    weights = next(resamples(rows, seed))[:5]
    for name, theirs in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        of = METRICS[name].from_weights
        assert of is not None
        for found, weight in zip(of(labels, probabilities, weights), weights, strict=True):
            kept = weight > 0
            if len(np.unique(labels[kept])) < 2:
                assert np.isnan(found)
            else:
                expected = theirs(labels[kept], probabilities[kept, 1], sample_weight=weight[kept])
                assert found == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("name", ["auroc", "auprc", "mcc", "f1", "accuracy"])
def test_metric_of_repeated_rows_equals_that_of_weights(name: str, classes: int) -> None:
    labels, probabilities = random_rows(50, classes, seed=1)
    found = bootstrap(labels, [probabilities], name)
    assert len(found) == resampling.RESAMPLES
    for number, weights in enumerate(next(resamples(50))[:10]):
        rows = np.repeat(np.arange(50), weights)
        assert found[number] == pytest.approx(scores(labels[rows], probabilities[rows])[name])


def test_intervals_contain_the_metric_and_narrow_with_more_rows() -> None:
    widths = []
    for rows in (60, 960):
        labels, probabilities = random_rows(rows, 2, seed=2)
        found, exact = row_intervals(labels, probabilities), scores(labels, probabilities)
        assert set(found) == set(METRICS)
        for name, limits in found.items():
            value = exact[name]
            assert limits is not None and value is not None and limits[0] < value < limits[1]
        assert found["auroc"] is not None
        widths.append(found["auroc"][1] - found["auroc"][0])
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.4)


def test_undefined_and_constant_metrics_have_no_interval() -> None:
    probabilities = np.eye(2)[[0, 1, 1, 1, 0, 1, 1, 1, 1]]
    found = row_intervals(np.ones(9, dtype=np.int64), probabilities)
    assert found["auroc"] is None and found["auprc"] is None and found["accuracy"] is not None
    constant = row_intervals(np.arange(10) % 2, np.tile([0.4, 0.6], (10, 1)))
    assert constant["mcc"] is None and constant["auroc"] is None and constant["accuracy"] is not None


def test_resamples_do_not_depend_on_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    together = np.concatenate(list(resamples(30)))
    monkeypatch.setattr(resampling, "MAX_WEIGHTS", 30 * 7)
    assert np.array_equal(np.concatenate(list(resamples(30))), together)
    assert together.shape == (resampling.RESAMPLES, 30) and (together.sum(1) == 30).all()
