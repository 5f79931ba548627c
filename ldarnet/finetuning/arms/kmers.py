"""Baseline on k-mers: logistic regression on counts for classes, ridge regression for values, k-mers around bases."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ldarnet.alphabet import PAD, T, decode, encode, reverse_complement
from ldarnet.finetuning.arms import BASELINE, Arm, Learner, register
from ldarnet.finetuning.base_kmers import SETTINGS, BaseKmers
from ldarnet.finetuning.evaluation import Outputs, best_by
from ldarnet.finetuning.job import FinetuneJob, FoldResult, LaunchContext
from ldarnet.finetuning.learning import log_fit, on_main
from ldarnet.finetuning.ridge import fit_ridge
from ldarnet.finetuning.targets import BaseTargets, ValueTargets
from ldarnet.runtime.tracking import Tracker
from ldarnet.tasks.dataset import Examples
from ldarnet.tasks.leakage import blocks
from ldarnet.tasks.metrics import BASES, CLASSIFICATION, REGRESSION

Result = TypeVar("Result")

K = 6
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)
"""Inverse regularization strengths (scikit-learn's C) of logistic regression; the validation rows select one."""
PENALTIES = (1e1, 1e2, 1e3, 1e4, 1e5)
"""Penalties of ridge regression (scikit-learn's alpha); the validation rows select one."""
MAX_ITERATIONS = 1000
BLOCK_BASES = 2**20
"""Bases per block of rows whose 6-mers are counted at once."""


@dataclass(frozen=True)
class KmerModel:
    """Logistic regression on 6-mer counts.

    Attributes:
        strands: `one` counts 6-mers on the given strand only; `both` merges each 6-mer and its reverse complement into
            a single feature.
        strength: inverse regularization strength (scikit-learn's C).
        classes: number of classes, including those without training rows.
    """

    strands: str
    strength: float
    classes: int
    scaler: StandardScaler
    regression: LogisticRegression

    def probabilities(self, sequences: list[str]) -> np.ndarray:
        """Class probabilities, (n, classes) float64."""
        found = np.zeros((len(sequences), self.classes))
        for begin, end in blocks(sequences, BLOCK_BASES):
            features = self.scaler.transform(kmer_counts(sequences[begin:end], self.strands))
            found[begin:end, self.regression.classes_] = self.regression.predict_proba(features)
        return found


@dataclass(frozen=True)
class KmerRidge:
    """Ridge regression on 6-mer counts.

    Attributes:
        strands: as in `KmerModel`.
        penalty: penalty on the squared weights (scikit-learn's alpha).
        weight: (targets, features).
        bias: (targets,).
    """

    strands: str
    penalty: float
    scaler: StandardScaler
    weight: np.ndarray
    bias: np.ndarray

    def values(self, sequences: list[str]) -> np.ndarray:
        """Predicted values, (n, targets) float64."""
        parts = [
            self.scaler.transform(kmer_counts(sequences[begin:end], self.strands)) @ self.weight.T + self.bias
            for begin, end in blocks(sequences, BLOCK_BASES)
        ]
        return np.concatenate(parts)


Model = KmerModel | KmerRidge | BaseKmers
Fitted = tuple[KmerModel, dict[str, Any]]
FittedRidge = tuple[KmerRidge, dict[str, Any]]


def fit_kmers(
    train: Examples,
    classes: int,
    validate: Callable[[KmerModel], dict[str, Any]],
    metric: str,
    run: Callable[[Callable[[], Fitted]], Fitted],
) -> Fitted:
    """Fit logistic regressions; the validation rows select the penalty and whether strands are merged.

    Both merged and separate strands are tried because tasks differ: a histone mark has no strand, a splice site has
    one. Networks use the same validation rows to select their best epoch.

    Args:
        train: training rows.
        classes: number of classes.
        validate: returns the metrics of a model on the validation rows.
        metric: validation metric that selects the model.
        run: takes a function that fits one model, calls it, and returns its result.

    Returns:
        The best model and its metrics.
    """

    def one(strands: str, strength: float, scaler: StandardScaler, features: Any) -> Fitted:
        regression = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, random_state=0)
        model = KmerModel(strands, strength, classes, scaler, regression.fit(features, train.labels))
        return model, validate(model)

    def fits(strands: str) -> list[Fitted]:
        scaler, features = _scaled_counts(train.sequences, strands)
        return [run(partial(one, strands, strength, scaler, features)) for strength in STRENGTHS]

    return best_by(metric, [*fits("one"), *fits("both")])


def fit_ridges(
    sequences: list[str],
    values: np.ndarray,
    validate: Callable[[KmerRidge], dict[str, Any]],
    metric: str,
    run: Callable[[Callable[[], FittedRidge]], FittedRidge],
) -> FittedRidge:
    """Fit ridge regressions to standardized values (n, targets); selection and other arguments as in `fit_kmers`."""

    def one(strands: str, penalty: float, scaler: StandardScaler, features: Any) -> FittedRidge:
        model = KmerRidge(strands, penalty, scaler, *fit_ridge(features, values, penalty))
        return model, validate(model)

    def fits(strands: str) -> list[FittedRidge]:
        scaler, features = _scaled_counts(sequences, strands)
        return [run(partial(one, strands, penalty, scaler, features)) for penalty in PENALTIES]

    return best_by(metric, [*fits("one"), *fits("both")])


def _scaled_counts(sequences: list[str], strands: str) -> tuple[StandardScaler, Any]:
    """6-mer counts divided by their standard deviations, and the scaler that divides them."""
    features = kmer_counts(sequences, strands)
    scaler = StandardScaler(with_mean=False).fit(features)  # centering would make the matrix dense
    for begin, end in blocks(sequences, BLOCK_BASES):  # at once, it takes three times the memory
        entries = slice(features.indptr[begin], features.indptr[end])
        features.data[entries] = scaler.transform(features[begin:end]).data
    return scaler, features


def kmer_counts(sequences: list[str], strands: str = "one") -> sparse.csr_array:
    """Count the 6-mers of each sequence; 6-mers that contain N are not counted.

    Returns:
        Counts (n, 4096) float32 in the order AAAAAA, AAAAAC, ...; with `strands="both"`, (n, 2080), where each 6-mer is
        merged with its reverse complement.
    """
    width = 4**K if strands == "one" else int(_canonical().max()) + 1
    most = sum(max(0, len(sequence) - K + 1) for sequence in sequences)
    index = np.int32 if most < 2**31 else np.int64
    data, columns = np.empty(most, dtype=np.float32), np.empty(most, dtype=index)
    ends = np.zeros(len(sequences) + 1, dtype=index)
    for begin, end in blocks(sequences, BLOCK_BASES):
        counts, first = _count_block(sequences[begin:end], strands, width), ends[begin]
        last = first + counts.nnz
        data[first:last], columns[first:last] = counts.data, counts.indices
        ends[begin + 1 : end + 1] = first + counts.indptr[1:]
    return sparse.csr_array((data[: ends[-1]], columns[: ends[-1]], ends), shape=(len(sequences), width))


def _count_block(sequences: list[str], strands: str, width: int) -> sparse.csr_array:
    ids = np.concatenate([np.append(encode(sequence), PAD) for sequence in sequences]).astype(np.int64)
    row = np.repeat(np.arange(len(sequences)), [len(sequence) + 1 for sequence in sequences])
    positions = max(0, len(ids) - K + 1)
    code, whole = np.zeros(positions, dtype=np.int64), np.ones(positions, dtype=bool)
    for offset in range(K):
        base = ids[offset : offset + positions]
        code = 4 * code + base
        whole &= base <= T
    column = (code if strands == "one" else _canonical()[np.where(whole, code, 0)])[whole]
    ones = np.ones(len(column), dtype=np.float32)
    return sparse.csr_array(sparse.coo_array((ones, (row[:positions][whole], column)), shape=(len(sequences), width)))


def _canonical() -> np.ndarray:
    """Index of the canonical form of each 6-mer, (4096,) int64."""
    code, other = np.arange(4**K), np.zeros(4**K, dtype=np.int64)
    for position in range(K):
        other = 4 * other + (T - (code // 4**position) % 4)
    return np.unique(np.minimum(code, other), return_inverse=True)[1]


def _learner(job: FinetuneJob, context: LaunchContext) -> Learner:
    return lambda fold, tracker: _learn(job, fold, context, tracker)


def _learn(job: FinetuneJob, fold: int, context: LaunchContext, tracker: Tracker | None) -> FoldResult:
    begin = time.perf_counter()
    train, valid = (job.rows.subset(index) for index in job.folds[fold])
    valid_ids = [job.ids[row] for row in job.folds[fold][1]]
    metric, strands = job.config.evaluation.metric, job.config.evaluation.strands

    targets = job.fitted_targets(fold)

    def validate(model: Model) -> dict[str, Any]:
        return targets.evaluate(_outputs(model, valid_ids, strands), valid.labels)

    def run(work: Callable[[], Result]) -> Result:
        return on_main(context, work)

    model: Model
    if isinstance(targets, BaseTargets):
        ids, labels = [job.ids[row] for row in job.folds[fold][0]], targets.tensor(train.labels)

        def fit_bases(k: int, pseudo_count: float) -> tuple[BaseKmers, dict[str, Any]]:
            fitted = BaseKmers.fit(ids, labels, len(targets.names), k, pseudo_count)
            return fitted, validate(fitted)

        model, metrics = best_by(metric, [run(partial(fit_bases, *settings)) for settings in SETTINGS])
    elif isinstance(targets, ValueTargets):
        values = targets.standardized(train.labels)
        model, metrics = fit_ridges(train.sequences, values, validate, metric, run)
    else:
        model, metrics = fit_kmers(train, len(job.data.classes), validate, metric, run)
    line = log_fit(job, fold, metrics, time.perf_counter() - begin, context, tracker)
    outputs = on_main(context, lambda: _outputs(model, job.reported(fold)[1], strands))
    return FoldResult(None, 1, line, [], line["seconds"], outputs)


def _outputs(model: Model, ids: list[np.ndarray], strands: int) -> Outputs:
    """Class log-probabilities or values of rows on the forward strand or, with `strands=2`, on both strands."""
    if isinstance(model, BaseKmers):
        return _base_outputs(model, ids, strands)
    both = [[decode(row) for row in strand] for strand in [ids, [reverse_complement(row) for row in ids]][:strands]]
    if isinstance(model, KmerRidge):
        return Outputs(np.stack([model.values(strand) for strand in both]).astype(np.float32), [])
    return Outputs(_logs([model.probabilities(strand) for strand in both]), [])


def _base_outputs(model: BaseKmers, ids: list[np.ndarray], strands: int) -> Outputs:
    probabilities = [model.predict(ids)]
    if strands == 2:  # the last base of the last row is the first base of its reverse complement
        probabilities.append(model.predict([reverse_complement(row) for row in reversed(ids)])[::-1])
    return Outputs(_logs(probabilities), [], list(map(len, ids)))


def _logs(probabilities: list[np.ndarray]) -> np.ndarray:
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)).astype(np.float32)


register(
    Arm(
        option=BASELINE,
        name="kmers",
        task_types=(CLASSIFICATION, REGRESSION, BASES),
        description="regression on 6-mer counts, or class frequencies by k-mer for bases",
        learner=_learner,
        fit="no epochs",
        selection="penalty",
        ignored=("model.", "optimizer.", "schedule.", "training.", "run.seed"),
    )
)
