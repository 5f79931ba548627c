"""Linear probe on the mean-pooled last hidden state of the frozen LDARNet: logistic or ridge regression.

Shapes: n rows, D features, C classes.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ldarnet.finetuning.arms import MODE, Arm, Learner, register
from ldarnet.finetuning.classifier import build_classifier, pooler, tokenizer_of
from ldarnet.finetuning.evaluation import Outputs, best_by, run_over
from ldarnet.finetuning.job import FinetuneJob, FoldResult, LaunchContext
from ldarnet.finetuning.learning import log_fit, on_main
from ldarnet.finetuning.ridge import fit_ridge
from ldarnet.finetuning.targets import ValueTargets
from ldarnet.runtime.distributed import World
from ldarnet.runtime.timers import StepTimers
from ldarnet.runtime.tracking import Tracker
from ldarnet.tasks.metrics import CLASSIFICATION, REGRESSION

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Inverse regularization strengths (scikit-learn's C); the validation rows select one."""
PENALTIES = (1000.0, 100.0, 10.0, 1.0, 0.1)
"""Penalties of ridge regression (scikit-learn's alpha); the validation rows select one."""
MAX_ITERATIONS = 1000
ABSENT_LOGIT = -30.0
"""Logit of a class without training rows in a fold."""


@dataclass(frozen=True)
class Probe:
    """A linear layer on features.

    Attributes:
        weight: (C, D) float32.
        bias: (C,) float32.
        strength: selected inverse regularization strength; in regression, the inverse of the penalty.
    """

    weight: np.ndarray
    bias: np.ndarray
    strength: float

    def scores(self, features: Outputs, index: np.ndarray | slice) -> Outputs:
        """Class logits or standardized values of the rows in `index`."""
        return Outputs(features.values[:, index] @ self.weight.T + self.bias, features.bases_per_chunk)

    def into(self, network: Any) -> Any:
        """Return a copy of the network with the probe as its head."""
        whole = copy.deepcopy(network)
        with torch.no_grad():
            whole.classifier.weight.copy_(torch.from_numpy(self.weight))
            whole.classifier.bias.copy_(torch.from_numpy(self.bias))
        return whole


class Features:
    """Features of all rows, computed at the first access and then reused by all folds.

    The first access is a collective operation.

    Args:
        job: configuration, data and network shared by all folds.
        world: ranks of the run.
        timers: step timers of this rank.
    """

    def __init__(self, job: FinetuneJob, world: World, timers: StepTimers) -> None:
        self._job, self._world, self._timers = job, world, timers

    @cached_property
    def rows(self) -> Outputs:
        """Features of training and validation rows."""
        return self._of(self._job.ids)

    @cached_property
    def test(self) -> Outputs:
        """Features of the test rows."""
        return self._of(self._job.test_ids)

    def _of(self, ids: list[np.ndarray]) -> Outputs:
        config, network = self._job.config, copy.deepcopy(self._job.network)
        assert network is not None
        network.to(self._world.device).eval()
        shape: Any = network.config
        both = config.training.reverse_complement or config.evaluation.strands == 2
        return run_over(
            ids,
            pooler(network, self._job.autocast, self._world.device),
            shape.d_model[0],
            batch=config.evaluation.batch,
            strands=2 if both else 1,
            world=self._world,
            timers=self._timers,
            tokenizer=tokenizer_of(network),
        )


Fitted = tuple[Probe, dict[str, Any]]


def fit(job: FinetuneJob, fold: int, features: Outputs, run: Callable[[Callable[[], Fitted]], Fitted]) -> Fitted:
    """Fit a probe for each penalty on the training rows of a fold.

    Args:
        job: configuration, data and network shared by all folds.
        fold: fold number.
        features: features of training and validation rows.
        run: takes a function that fits one probe, calls it, and returns its result.

    Returns:
        The probe with the highest validation metric, and its metrics.
    """
    config, (train, valid) = job.config, job.folds[fold]
    strands = len(features.values) if config.training.reverse_complement else 1
    x = features.values[:strands, train].reshape(-1, features.values.shape[2])
    targets, labels = job.fitted_targets(fold), job.rows.labels
    scaler = StandardScaler().fit(x)
    seen = Outputs(features.values[: config.evaluation.strands], features.bases_per_chunk)

    def one(strength: float) -> Fitted:
        if isinstance(targets, ValueTargets):
            values = np.tile(targets.standardized(labels[train]), (strands, 1))
            layer = _unscaled(*fit_ridge(scaler.transform(x), values, 1 / strength), scaler)
            probe = Probe(layer[0].astype(np.float32), layer[1].astype(np.float32), strength)
        else:
            regression = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, random_state=config.run.seed)
            regression.fit(scaler.transform(x), np.tile(labels[train], strands))
            probe = _as_layer(regression, scaler, len(job.data.classes), strength)
        return probe, targets.evaluate(probe.scores(seen, valid), labels[valid])

    strengths = [1 / penalty for penalty in PENALTIES] if isinstance(targets, ValueTargets) else STRENGTHS
    return best_by(config.evaluation.metric, [run(partial(one, strength)) for strength in strengths])


def _unscaled(slopes: np.ndarray, offsets: np.ndarray, scaler: StandardScaler) -> tuple[np.ndarray, np.ndarray]:
    """Slopes (outputs, D) and offsets (outputs,) for unscaled features, from those for scaled features."""
    assert scaler.scale_ is not None and scaler.mean_ is not None
    slopes = slopes / scaler.scale_
    return slopes, offsets - slopes @ scaler.mean_


def _as_layer(regression: LogisticRegression, scaler: StandardScaler, classes: int, strength: float) -> Probe:
    """Convert a regression on scaled features to a linear layer on unscaled features with one logit per class."""
    slopes, offsets = _unscaled(regression.coef_, regression.intercept_, scaler)
    if len(slopes) == 1:  # scikit-learn has a single logit for two classes
        slopes, offsets = np.vstack([0 * slopes, slopes]), np.concatenate([[0.0], offsets])
    weight, bias = np.zeros((classes, slopes.shape[1])), np.full(classes, ABSENT_LOGIT)
    weight[regression.classes_], bias[regression.classes_] = slopes, offsets
    return Probe(weight.astype(np.float32), bias.astype(np.float32), strength)


def _learner(job: FinetuneJob, context: LaunchContext) -> Learner:
    features = Features(job, context.world, context.timers)
    return lambda fold, tracker: _learn(job, fold, features, context, tracker)


def _learn(
    job: FinetuneJob, fold: int, features: Features, context: LaunchContext, tracker: Tracker | None
) -> FoldResult:
    begin = time.perf_counter()
    rows = features.rows
    probe, metrics = fit(job, fold, rows, lambda work: on_main(context, work))
    line = {"strength": probe.strength, **metrics}
    line = log_fit(job, fold, line, time.perf_counter() - begin, context, tracker)
    test = features.test if job.test is not None else features.rows
    index = slice(None) if job.test is not None else job.folds[fold][1]
    shown = Outputs(test.values[: job.config.evaluation.strands], test.bases_per_chunk)
    network, outputs = probe.into(job.network), probe.scores(shown, index)
    return FoldResult(network, 1, line, rows.bases_per_chunk, line["seconds"], outputs)


register(
    Arm(
        option=MODE,
        name="probe",
        task_types=(CLASSIFICATION, REGRESSION),
        description="LDARNet",
        learner=_learner,
        build=build_classifier,
        fit="frozen network, logistic regression on its mean output (no learning rate, batch or epochs)",
        selection="penalty",
        takes_checkpoint=True,
        ignored=(
            "optimizer.",
            "schedule.",
            *(f"training.{key}" for key in ("accumulation", "batch", "epochs", "ratio_weight", "stop_patience")),
        ),
        ignored_with_checkpoint=("model.", "run.seed"),
    )
)
