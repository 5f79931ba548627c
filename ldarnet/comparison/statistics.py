"""Significance tests over folds, and ranks over tasks.

The folds of a run share most of their training rows and all of their test rows, so their values are not independent.
Each docstring states what its test can and cannot show.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ldarnet.tasks.metrics import MIN_FOLDS, TOLERANCE


def corrected_t(differences: Sequence[float], train_rows: int, test_rows: int) -> float | None:
    """Two-sided p-value of the corrected resampled t-test (Nadeau and Bengio 2003); null hypothesis: no difference.

    For k folds, t = mean / sqrt((1/k + test/train) * variance), with k - 1 degrees of freedom. The plain paired t-test
    has 1/k instead of (1/k + test/train). It assumes independent folds, and its p-values are too small for folds that
    share training rows.

    The correction was derived for random splits into training and test rows. Here the test rows are fixed, and folds
    differ only in the held-out part of the training rows. A small p-value says that the difference would persist for
    another row order, initialization and choice of held-out rows. It does not generalize to new training or test rows.

    Args:
        differences: difference between the two models for each fold.
        train_rows: training rows of a fold.
        test_rows: test rows of a fold.

    Returns:
        p, or None for fewer than MIN_FOLDS folds or if all differences are equal.
    """
    return mean_difference(differences, test_rows / train_rows, minimum=MIN_FOLDS).p


POWER = 0.8
LEVEL = 0.05


@dataclass(frozen=True)
class MeanDifference:
    """Mean of k paired differences; `half`, `p` and `detectable` are None without a test; see `mean_difference`.

    Attributes:
        mean: mean difference.
        count: k.
        half: half-width of the 95% confidence interval (Student's t).
        p: two-sided p-value of the t-test; null hypothesis: no difference.
        detectable: smallest true difference that the test finds at the 5% level with a power of 80%; see
            `detectable_difference`.
    """

    mean: float
    count: int
    half: float | None = None
    p: float | None = None
    detectable: float | None = None


def mean_difference(differences: Sequence[float], correction: float = 0.0, *, minimum: int = 2) -> MeanDifference:
    """Paired t-test and confidence interval of one or more differences; no test if all differences are equal.

    Args:
        differences: paired differences.
        correction: added to 1/k in the variance of the mean; 0 for independent differences, such as those of runs with
            different seeds; test rows / training rows for folds, see `corrected_t`. Repeated folds are treated the same
            way, with the number of folds over all repetitions as k (Bouckaert and Frank 2004).
        minimum: number of differences from which there is a test.
    """
    k, mean = len(differences), float(np.mean(differences))
    if k < minimum or np.ptp(differences) < TOLERANCE:
        return MeanDifference(mean, k)
    error = math.sqrt((1 / k + correction) * float(np.var(differences, ddof=1)))
    return MeanDifference(
        mean=mean,
        count=k,
        half=float(stats.t.ppf(1 - LEVEL / 2, k - 1) * error),
        p=float(2 * stats.t.sf(abs(mean / error), k - 1)),
        detectable=detectable_difference(error, k - 1),
    )


def detectable_difference(error: float, freedom: int) -> float:
    """Smallest true difference that a two-sided t-test at the 5% level finds with a power of 80%.

    This is (t_0.975 + t_0.8) * error, where t_q is the q-quantile of Student's t (Bloom 1995, "Minimum detectable
    effects", Evaluation Review 19). It is computed from the observed standard error, so it is an estimate itself, and a
    rough one for few degrees of freedom. Any single test of several needs a larger difference after Holm's correction.

    Args:
        error: standard error of the mean difference.
        freedom: degrees of freedom.
    """
    return float((stats.t.ppf(1 - LEVEL / 2, freedom) + stats.t.ppf(POWER, freedom)) * error)


def signed_rank(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of Wilcoxon's signed-rank test; null hypothesis: differences are symmetric around zero.

    The test does not assume a normal distribution, but it does assume independent folds, and cross-validation folds are
    not independent. With k folds, p cannot be smaller than 2 / 2^k: 0.002 with ten folds, 0.06 with five.

    Returns:
        p, or None for fewer than MIN_FOLDS folds or if all differences are zero.
    """
    if len(differences) < MIN_FOLDS or not np.any(differences):
        return None
    return float(stats.wilcoxon(differences).pvalue)


def welch(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Two-sided p-value of Welch's unpaired t-test; null hypothesis: equal means. Assumes independent folds.

    Returns:
        p, or None if a model has fewer than MIN_FOLDS folds or if the values of both models are constant.
    """
    if min(len(ours), len(theirs)) < MIN_FOLDS or max(np.ptp(ours), np.ptp(theirs)) < TOLERANCE:
        return None
    return float(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction (1979) of a family of p-values: bounds the probability of one or more false positives.

    Args:
        values: p-value of each test; None for tests that were not run, which do not count as members of the family.
    """
    order = sorted((p, index) for index, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[index] = largest
    return corrected


def wins_and_ranks(values: Mapping[str, Sequence[float]]) -> dict[str, tuple[int, float]]:
    """Number of tasks won and mean rank of each model, sorted by mean rank.

    Rank 1 is best. Models with equal values get the mean of their ranks, and all models with the best value win.

    Args:
        values: model -> one value per task, with tasks in the same order for all models; higher is better.
    """
    table_MT = np.array(list(values.values()))
    wins = (table_MT == table_MT.max(axis=0)).sum(axis=1)
    ranks = stats.rankdata(-table_MT, axis=0).mean(axis=1)
    found = {model: (int(wins[row]), float(ranks[row])) for row, model in enumerate(values)}
    return dict(sorted(found.items(), key=lambda item: item[1][1]))
