"""Fine-tuning on one task: `finetune(config)` trains the selected folds, or resumes them."""

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from ldarnet.config import FinetuneConfig, differences, load_config
from ldarnet.errors import UserError
from ldarnet.finetuning.arms import Learner, arm_of
from ldarnet.finetuning.describe import describe
from ldarnet.finetuning.display import FinetuneProgress
from ldarnet.finetuning.fold_store import FoldStore
from ldarnet.finetuning.job import FinetuneJob, LaunchContext
from ldarnet.finetuning.results import read_result, write_result
from ldarnet.finetuning.setup import prepare, write_data_record
from ldarnet.finetuning.summary import summarize
from ldarnet.io import run_files
from ldarnet.io.download import DOWNLOAD_RETRY
from ldarnet.io.early_stop import stop_reason
from ldarnet.io.lock import FolderInUseError, Lock
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import slow_bf16
from ldarnet.runtime.rank_log import LOG
from ldarnet.runtime.ranks import process_group, supervised
from ldarnet.runtime.run_dir import check_same_configuration, lock_run_dir
from ldarnet.runtime.tracking import Tracker

POLL_SECONDS = 1.0
ARTIFACTS = (
    run_files.CONFIG,
    run_files.RESULT,
    run_files.PREDICTIONS,
    run_files.CONFUSION_FIGURE,
    run_files.ROC_FIGURE,
    run_files.PRECISION_RECALL_FIGURE,
    run_files.SCATTER_FIGURE,
)
"""Files of a fold that are logged to MLflow."""


@dataclass(frozen=True)
class FinetuneResult:
    """Outcome of one launch.

    Attributes:
        run_dir: folder of the run.
        finished: whether all selected folds are finished.
        signal: name of the signal that stopped this launch, if any.
    """

    run_dir: Path
    finished: bool
    signal: str | None


def finetune(config: FinetuneConfig) -> FinetuneResult:
    """Train or resume the folds that `config` selects. Call it on every rank that the launcher started.

    Raises:
        UserError: invalid configuration, data or run folder; raised on every rank.
    """
    arm_of(config)
    with process_group(config.training.timeout_minutes) as world:
        return finetune_on(world, config)


def finetune_on(world: World, config: FinetuneConfig) -> FinetuneResult:
    """Run `finetune` on an initialized process group."""
    with (
        supervised(world, config.run.dir, config.training.timeout_minutes) as (timers, request),
        FinetuneProgress(world.is_main) as display,
    ):
        context = LaunchContext(world, timers, request, display)
        with _hold(config.run.dir, context) or nullcontext():
            finished = not _stopped(context) and _finetune(config, context)
        return FinetuneResult(config.run.dir, finished, request.received)


def _hold(run_dir: Path, context: LaunchContext) -> Lock | None:
    """Lock the run folder; all ranks wait while another process holds the lock.

    Returns:
        The lock on rank 0; None on other ranks, or if a signal arrives before the lock is acquired.
    """
    logged = False
    while not _stopped(context):
        with context.timers.phase(0, "wait"):
            held = context.world.on_main(lambda: _try_lock(run_dir))
            if context.world.sum_on_host(held is not None)[0]:
                return held
            if not logged:
                context.display.info(f"waiting for another process that is fine-tuning in {run_dir}")
                logged = True
            time.sleep(POLL_SECONDS)
    return None


def _try_lock(run_dir: Path) -> Lock | None:
    try:
        return lock_run_dir(run_dir)
    except FolderInUseError:
        return None


def _stopped(context: LaunchContext) -> bool:
    """Whether any rank received a stop signal; collective."""
    stops = context.world.sum_on_host(context.request.received is not None)[0]
    if stops:
        context.request.agree(context.world)
    return stops > 0


def _reason(context: LaunchContext) -> str:
    return stop_reason(context.request.received or "")


def _finetune(config: FinetuneConfig, context: LaunchContext) -> bool:
    """Train and test all selected folds; return whether all are finished."""
    world, display = context.world, context.display
    disable_progress_bar()  # transformers would show a progress bar while it writes weights
    try:
        with context.timers.phase(0, "prepare"):
            job = prepare(config, world, replace(DOWNLOAD_RETRY, stopped=lambda: context.request.received is not None))
    except UserError:
        if not _stopped(context):
            raise
        display.info(f"{_reason(context)} before training; run the same command again to resume")
        return False
    world.on_main(lambda: _open_folder(job))
    for text in describe(job, world):
        display.info(text)
    if warning := slow_bf16(job.autocast and job.network is not None, world):
        display.warn(warning)
    learner = arm_of(job.config).learner(job, context)
    for fold in job.selected_folds:
        result = job.folder(fold) / run_files.RESULT
        if world.from_main(result.is_file):
            display.info(f"fold {fold} is finished: {result}")
            _remove_checkpoints(result.parent, context)
        elif not _fold(job, learner, fold, context):
            display.info(
                f"{_reason(context)} in fold {fold}; progress is saved in {config.run.dir}; run the same command "
                "again to resume"
            )
            return False
    world.on_main(lambda: summarize(job, display))
    return True


def _remove_checkpoints(fold: Path, context: LaunchContext) -> None:
    for text in context.world.on_main(FoldStore(fold).remove) or []:
        context.display.warn(text)


def _fold(job: FinetuneJob, learner: Learner, fold: int, context: LaunchContext) -> bool:
    """Train and test one fold; return False if a signal interrupts training."""
    world, folder = context.world, job.folder(fold)
    tracker = world.on_main(lambda: _tracker(job, fold, context.display))
    status = "FAILED"
    try:
        trained = None if _stopped(context) else learner(fold, tracker)
        if trained is None:
            status = "KILLED"
            return False
        with context.timers.phase(0, "leave"):
            warnings = world.on_main(lambda: write_result(job, fold, trained))
        for text in warnings or []:
            context.display.warn(text)
        _remove_checkpoints(folder, context)
        status = "FINISHED"
        LOG.info("fold %d is finished", fold)
        return True
    finally:
        if tracker is not None:
            _close(tracker, folder, status)


def _open_folder(job: FinetuneJob) -> None:
    """Create the run folder and write its configuration; rank 0 only.

    Raises:
        UserError: the folder contains a run with a different configuration.
    """
    config, run_dir = job.config, Path(job.config.run.dir)
    saved = run_dir / run_files.CONFIG
    if saved.is_file() and any(run_dir.glob(run_files.FOLD_METRICS)):
        changed = differences(load_config(saved, schema=FinetuneConfig), config)
        check_same_configuration(changed, run_dir, "run.dir")
    write_data_record(job)
    config.save(saved)
    for fold in job.selected_folds:
        folder = job.folder(fold)
        folder.mkdir(exist_ok=True)
        alone = config.folds.model_copy(update={"only": [fold]})
        config.model_copy(update={"folds": alone}).save(folder / run_files.CONFIG)


def _tracker(job: FinetuneJob, fold: int, display: FinetuneProgress) -> Tracker:
    config = job.config
    tags = {"task": job.data.task, "suite": job.data.suite, "arm": config.arm, "fold": str(fold)}
    return Tracker(config, display.info, job.kernels, part=run_files.fold_name(fold), tags=tags)


def _close(tracker: Tracker, folder: Path, status: str) -> None:
    """Log the results of a fold to MLflow and end its MLflow run."""
    if status == "FINISHED":
        result = read_result(folder)
        assert result is not None
        for split, found in (("test", result.get("test")), ("test_leak_free", result["test_leak_free"])):
            if found:
                tracker.log({"step": result["best_step"], "split": split, **found})
        for name in ARTIFACTS:
            if (folder / name).is_file():
                tracker.log_artifact(folder / name)
    tracker.close(status)
