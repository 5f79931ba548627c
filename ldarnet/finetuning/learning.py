"""Helpers for arms: train a network in epochs, and log the metrics of a model that is fit without epochs."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from ldarnet.finetuning.classifier import scorer, tokenizer_of
from ldarnet.finetuning.evaluation import run_over
from ldarnet.finetuning.fold import FoldTraining
from ldarnet.finetuning.fold_store import FoldStore
from ldarnet.finetuning.job import FinetuneJob, FoldResult, LaunchContext
from ldarnet.runtime.checkpoint_files import load_weights
from ldarnet.runtime.metrics_file import MetricsFile
from ldarnet.runtime.tracking import Tracker

T = TypeVar("T")


def epoch_learner(job: FinetuneJob, context: LaunchContext) -> Callable[[int, Tracker | None], FoldResult | None]:
    """Return a learner that trains all weights of `job.network` in epochs and selects the best epoch."""
    return lambda fold, tracker: _train(job, fold, context, tracker)


def _train(job: FinetuneJob, fold: int, context: LaunchContext, tracker: Tracker | None) -> FoldResult | None:
    config, world = job.config, context.world
    with FoldTraining(job, fold, context, tracker) as training:
        if not training.run():
            return None
        state, epochs = training.state, training.schedule.epoch
    assert state.best_step is not None
    network: Any = copy.deepcopy(job.network)
    with world.together():
        load_weights(network, FoldStore(job.folder(fold)).path(state.best_step))
    network.to(world.device).eval()
    outputs = run_over(
        job.reported(fold)[1],
        scorer(network, job.autocast, world.device),
        len(job.data.classes),
        batch=config.evaluation.batch,
        strands=config.evaluation.strands,
        world=world,
        timers=context.timers,
        tokenizer=tokenizer_of(network),
        per_base=job.targets.per_base,
    )
    return FoldResult(network, epochs, state.best, state.first["bases_per_chunk"], state.seconds["all"], outputs)


def on_main(context: LaunchContext, work: Callable[[], T]) -> T:
    """Call `work` on rank 0 and broadcast its result. The step timers record it as the phase `fit`."""
    with context.timers.phase(0, "fit"):
        return context.world.from_main(work)


def log_fit(
    job: FinetuneJob,
    fold: int,
    metrics: dict[str, Any],
    seconds: float,
    context: LaunchContext,
    tracker: Tracker | None,
) -> dict[str, Any]:
    """Log the validation metrics of a model that is fit without epochs; return the line written to metrics.jsonl."""
    no_epochs = {"train_loss": None, "lr_factor": None, "bases_per_second": None}
    line = {"epoch": 1, "step": 0, "split": "valid", **metrics, **no_epochs, "seconds": seconds}
    context.display.epoch(fold, 1, line, job.config.evaluation.metric, best=True)

    def write() -> None:
        file = MetricsFile(job.folder(fold), -1)
        file.write(line)
        file.close()

    context.world.on_main(write)
    if tracker is not None:
        tracker.log(line)
    return line
