"""The ways of learning a task that are compared: networks epoch by epoch, the frozen probe, counts of 6-mers."""

import copy
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ldarnet.alphabet import decode, reverse_complement
from ldarnet.finetuning.baselines import KmerModel, fit_kmers
from ldarnet.finetuning.classifier import scorer
from ldarnet.finetuning.evaluation import Outputs, run_over
from ldarnet.finetuning.fold import FoldTraining, Start, fold_folder
from ldarnet.finetuning.fold_store import FoldStore
from ldarnet.finetuning.probe import Features, fit
from ldarnet.finetuning.results import Learned
from ldarnet.finetuning.setup import Job
from ldarnet.runtime.checkpoint_files import load_weights
from ldarnet.runtime.metrics_file import MetricsFile
from ldarnet.runtime.tracking import Tracker

T = TypeVar("T")
Outcome = tuple[Learned, Outputs]
"""How training went, and what is then said of the rows that results are about."""
Arm = Callable[[int, Tracker | None], Outcome | None]
"""Learns a fold, or goes on with it; None if a signal came before the end. Every rank calls it."""


def arm_of(job: Job, start: Start) -> Arm:
    """The one that a run's configuration names."""
    if job.config.model.baseline == "kmers":
        return lambda fold, tracker: _learn_kmers(job, fold, start, tracker)
    if job.config.training.mode == "probe":
        features = Features(job, start.world, start.phases)
        return lambda fold, tracker: _learn_probe(job, fold, features, start, tracker)
    return lambda fold, tracker: _learn_network(job, fold, start, tracker)


def _learn_network(job: Job, fold: int, start: Start, tracker: Tracker | None) -> Outcome | None:
    """Train all weights epoch by epoch, then run the best epoch's."""
    config, world = job.config, start.world
    with FoldTraining(job, fold, start, tracker) as training:
        if not training.run():
            return None
        state, epochs = training.state, training.course.epoch
    assert state.best_step is not None
    network: Any = copy.deepcopy(job.network)
    with world.together():
        load_weights(network, FoldStore(fold_folder(job, fold)).path(state.best_step))
    network.to(world.device).eval()
    outputs = run_over(
        job.reported(fold)[1],
        scorer(network, job.autocast, world.device),
        len(job.data.classes),
        batch=config.evaluation.batch,
        strands=config.evaluation.strands,
        world=world,
        phases=start.phases,
    )
    before = state.first["bases_per_chunk"]
    return Learned(network, epochs, state.best, before, state.seconds["all"]), outputs


def _learn_probe(job: Job, fold: int, features: Features, start: Start, tracker: Tracker | None) -> Outcome:
    """Fit the head of the frozen network; one line of metrics."""
    begin = time.perf_counter()
    rows = features.rows
    probe, metrics = fit(job, fold, rows, lambda work: _turn(start, work))
    line = {"strength": probe.strength, **metrics}
    line = _record(job, fold, line, time.perf_counter() - begin, start, tracker)
    test = features.test if job.test is not None else features.rows
    index = slice(None) if job.test is not None else job.folds[fold][1]
    shown = Outputs(test.values[: job.config.evaluation.strands], test.bases_per_chunk)
    learned = Learned(probe.into(job.network), 1, line, rows.bases_per_chunk, line["seconds"])
    return learned, probe.scores(shown, index)


def _learn_kmers(job: Job, fold: int, start: Start, tracker: Tracker | None) -> Outcome:
    """Fit logistic regression on counts of 6-mers."""
    begin = time.perf_counter()
    train, valid = (job.rows.subset(index) for index in job.folds[fold])
    valid_ids = [job.ids[row] for row in job.folds[fold][1]]
    metric, strands = job.config.evaluation.metric, job.config.evaluation.strands

    def metrics(model: KmerModel) -> dict[str, Any]:
        return _of_kmers(model, valid_ids, strands).metrics(valid.labels)

    model, found = fit_kmers(train, len(job.data.classes), metrics, metric, lambda work: _turn(start, work))
    line = _record(job, fold, found, time.perf_counter() - begin, start, tracker)
    reported = _turn(start, lambda: _of_kmers(model, job.reported(fold)[1], strands))
    return Learned(None, 1, line, [], line["seconds"]), reported


def _turn(start: Start, work: Callable[[], T]) -> T:
    """What rank 0 finds, for all; a phase of its own, so that many of them are no rank that hangs."""
    with start.phases.phase(0, "fit"):
        return start.world.from_main(work)


def _of_kmers(model: KmerModel, ids: list[np.ndarray], strands: int) -> Outputs:
    """What a model says of rows, on one strand or on both."""
    read = [ids, [reverse_complement(row) for row in ids]][:strands]
    found = [model.probabilities([decode(row) for row in strand]) for strand in read]
    return Outputs(np.log(np.maximum(found, np.finfo(np.float32).tiny)).astype(np.float32), [])


def _record(
    job: Job, fold: int, metrics: dict[str, Any], seconds: float, start: Start, tracker: Tracker | None
) -> dict[str, Any]:
    """Write the only line of metrics of an arm without epochs."""
    without = {"train_loss": None, "lr_factor": None, "bases_per_second": None}
    line = {"epoch": 1, "step": 0, "split": "valid", **metrics, **without, "seconds": seconds}
    start.display.epoch(fold, 1, line, job.config.evaluation.metric, best=True)

    def write() -> None:
        file = MetricsFile(fold_folder(job, fold), -1)
        file.write(line)
        file.close()

    start.world.on_main(write)
    if tracker is not None:
        tracker.log(line)
    return line
