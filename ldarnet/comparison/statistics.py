"""Tests over folds, and ranks over tasks.

The folds of a run share most of their training rows and all of their test rows, so that their values are no independent
draws. What each test can say in spite of that stands beside it.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from ldarnet.tasks.metrics import MIN_FOLDS, TOLERANCE


def corrected_t(differences: Sequence[float], train_rows: int, test_rows: int) -> float | None:
    """The corrected resampled t-test of Nadeau and Bengio (2003): p, two-sided, of no difference.

    t = mean / sqrt((1/k + test/train) * variance), with k - 1 degrees of freedom over k folds. The plain paired test
    has 1/k alone, as if folds were independent, and finds differences where there are none.

    Nadeau and Bengio draw training and test rows anew together. Here both are fixed, but for the part that a fold
    leaves out: a small p says that the difference would be there in another order, with other new weights, and with
    other rows of these left out. It says nothing on other training rows, nor on other test rows.

    Args:
        differences: of the two models, a value for each fold.
        train_rows: that a fold trains on.
        test_rows: that it is tested on.

    Returns:
        None with fewer than MIN_FOLDS folds, or when all differ by the same.
    """
    k = len(differences)
    if k < MIN_FOLDS or np.ptp(differences) < TOLERANCE:
        return None
    variance = float(np.var(differences, ddof=1))
    t = float(np.mean(differences)) / math.sqrt((1 / k + test_rows / train_rows) * variance)
    return float(2 * stats.t.sf(abs(t), k - 1))


def signed_rank(differences: Sequence[float]) -> float | None:
    """Wilcoxon's signed-rank test: p, two-sided, that the differences lie evenly around zero.

    It assumes no distribution, but independent folds, which they are not. It cannot fall below 2 / 2^k with k folds:
    0.002 with ten, 0.06 with five.

    Returns:
        None with fewer than MIN_FOLDS folds, or when all differences are zero.
    """
    if len(differences) < MIN_FOLDS or not np.any(differences):
        return None
    return float(stats.wilcoxon(differences).pvalue)


def welch(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Welch's unpaired t-test: p, two-sided, of equal means. It takes the folds of each side for independent.

    Returns:
        None when a side has fewer than MIN_FOLDS folds, or neither varies.
    """
    if min(len(ours), len(theirs)) < MIN_FOLDS or max(np.ptp(ours), np.ptp(theirs)) < TOLERANCE:
        return None
    return float(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction (1979) of a family of p: the chance of a single false finding among all of them.

    Args:
        values: p of each test; those without one are no part of the family.
    """
    order = sorted((p, place) for place, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[place] = largest
    return corrected


def wins_and_ranks(values: Mapping[str, Sequence[float]]) -> dict[str, tuple[int, float]]:
    """On how many tasks each model is best, and its mean rank (1 the best; equal values share the mean of their ranks).

    Args:
        values: of each model, one for each task, the same tasks for all; higher is better.

    Returns:
        Wins, which all of the best have when several are equal, and mean rank, in order of mean rank.
    """
    table_MT = np.array(list(values.values()))
    wins = (table_MT == table_MT.max(axis=0)).sum(axis=1)
    ranks = stats.rankdata(-table_MT, axis=0).mean(axis=1)
    found = {model: (int(wins[row]), float(ranks[row])) for row, model in enumerate(values)}
    return dict(sorted(found.items(), key=lambda item: item[1][1]))
