"""Metrics against their definitions; undefined metrics are None."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ldarnet.tasks.metrics import METRICS, interval, scores, undefined


def one_hot(predicted, classes=2):
    return np.eye(classes)[predicted]


def test_two_classes_by_hand():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    found = scores(labels, one_hot([1, 1, 0, 1, 0, 0, 0, 0]))
    assert found["accuracy"] == 6 / 8
    assert found["mcc"] == pytest.approx((2 * 4 - 1 * 1) / np.sqrt(3 * 3 * 5 * 5))
    # F1 of class 1 is 2/3 over 3 rows, of class 0 it is 4/5 over 5 rows.
    assert found["f1"] == pytest.approx((3 * 2 / 3 + 5 * 4 / 5) / 8)


def test_ranking_metrics_by_hand():
    labels = np.array([0, 1, 0, 1])
    high = np.array([0.1, 0.3, 0.4, 0.9])
    found = scores(labels, np.stack([1 - high, high], axis=1))
    assert found["auroc"] == 3 / 4  # one of the four pairs is ranked incorrectly
    assert found["auprc"] == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_multiclass_metrics_are_weighted_one_vs_rest():
    rng = np.random.default_rng(0)
    labels, raw = rng.integers(0, 4, 200), rng.random((200, 4))
    probabilities = raw / raw.sum(1, keepdims=True)
    theirs = roc_auc_score(labels, probabilities, multi_class="ovr", average="weighted")
    assert scores(labels, probabilities)["auroc"] == pytest.approx(theirs)


def test_undefined_metrics_are_none():
    found = scores(np.array([1, 1, 1]), one_hot([1, 0, 1]))
    assert (found["mcc"], found["auroc"], found["auprc"]) == (None, None, None)
    assert undefined(found) == ["MCC", "AUROC", "AUPRC"]
    assert list(found) == list(METRICS)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("labels", "mcc"), [([1, 1, 1], None), ([0, 1, 1], 0), ([0, 0, 0], None)])
def test_mcc_of_a_single_predicted_class(labels, mcc):
    found = scores(np.array(labels), one_hot([1, 1, 1]))
    assert found["mcc"] == mcc
    assert found["accuracy"] == np.mean(labels)


def test_classes_without_rows_are_ignored():
    found = scores(np.array([0, 1, 0, 1]), one_hot([0, 1, 0, 1], classes=3))
    assert (found["auroc"], found["auprc"]) == (1, 1)


def test_ranking_metrics_of_nan_are_none():
    found = scores(np.array([0, 1]), np.full((2, 2), np.nan))
    assert found["auroc"] is None


def test_interval_uses_student_t():
    mean, half = interval([0.70, 0.72, 0.74])
    assert mean == pytest.approx(0.72)
    assert half == pytest.approx(4.302653 * 0.02 / np.sqrt(3))  # t(0.975, 2 degrees of freedom), from a table
    assert interval([0.5]) == (0.5, None)
    assert interval([0.1, 0.4]) == (0.25, None)
    assert interval([0.25, 0.25, 0.25]) == (0.25, None)  # ± 0 would suggest a precise mean
