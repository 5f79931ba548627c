"""Run the jobs of a queue as trials of Ray Tune: `run_trials(queue, ...)`."""

import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from ray import tune
from ray.tune import Callback, CheckpointConfig, FailureConfig, PlacementGroupFactory, RunConfig, Stopper, TuneConfig
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from ldarnet.io.lock import FolderInUseError
from ldarnet.jobs.supervisor import GRACE_SECONDS
from ldarnet.jobs.trial import ProgramTrial
from ldarnet.runtime.run_dir import lock_run_dir

RAY_FOLDER = ".ray"
POLL_SECONDS = 0.2
SAVING_SECONDS = 2 * GRACE_SECONDS

Resources = Mapping[str, float]
"""Numbers of `CPU` and `GPU`."""


class TrialQueue(Protocol):
    """Supplies jobs and records their outcomes."""

    @property
    def running(self) -> int:
        """Number of jobs that have been supplied and have not ended."""
        ...

    def suggest(self, trial_id: str) -> Mapping[str, Any] | None:
        """Return the job of the next trial; None if no trial can start now."""
        ...

    def started(self, trial_id: str) -> None:
        """Record the start of a trial or of its retry."""
        ...

    def ended(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record the last result of a trial that finished, was stopped early or had a user error."""
        ...

    def failed(self, trial_id: str, reason: str, retry: bool) -> None:
        """Record that a trial failed, and whether Ray Tune retries it."""
        ...


def run_trials(
    queue: TrialQueue,
    trainable: type[ProgramTrial],
    resources: Callable[[Mapping[str, Any]], Resources],
    folder: Path,
    *,
    scheduler: TrialScheduler | None = None,
    concurrent: int | None,
    retries: int,
    interrupted: Callable[[], bool],
) -> None:
    """Run trials until the queue is empty or `interrupted` returns True.

    Args:
        queue: queue of jobs. It is pickled with the search state that Ray saves for `Tuner.restore`; since this is not
            used, its `__getstate__` should return no attributes.
        trainable: class of the trials.
        resources: returns the resources of a job.
        folder: folder for a temporary subfolder with the state of Ray Tune.
        scheduler: scheduler of Ray Tune; None for first in, first out.
        concurrent: maximum number of concurrent trials; None for as many as the resources allow.
        retries: maximum number of times that a failed trial is retried.
        interrupted: returns True once all trials must stop; polled by Ray Tune's event loop.
    """
    storage = folder / RAY_FOLDER
    shutil.rmtree(storage, ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(trainable, lambda job: PlacementGroupFactory([dict(resources(job))])),
        tune_config=TuneConfig(
            search_alg=_QueueSearcher(queue),
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=concurrent,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=RunConfig(
            name="tune",
            storage_path=str(storage),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            failure_config=FailureConfig(max_failures=retries),
            callbacks=[_QueueCallback(queue)],
            stop=_StopAll(interrupted),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(storage, ignore_errors=True)


@contextmanager
def catch_signals(received: list[str]) -> Iterator[None]:
    """If SIGINT or SIGTERM arrives inside the block, append its name to `received`.

    If the same signal arrives again, the previous handler runs.
    """
    before = {}

    def record(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number).name)
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, record)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for_saving(folders: Iterable[Path]) -> None:
    """Wait until the programs in these run folders have saved and exited, but not longer than SAVING_SECONDS."""
    until = time.monotonic() + SAVING_SECONDS
    for folder in folders:
        while time.monotonic() < until and _is_locked(folder):
            time.sleep(POLL_SECONDS)


def _is_locked(folder: Path) -> bool:
    try:
        lock_run_dir(folder).close()
    except FolderInUseError:
        return True
    return False


class _QueueSearcher(Searcher):
    """Supplies Ray Tune with the jobs of a queue."""

    def __init__(self, queue: TrialQueue) -> None:
        super().__init__()
        self._queue = queue

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        job = self._queue.suggest(trial_id)
        if job is not None:
            return dict(job)
        return None if self._queue.running else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing, because `_QueueCallback` records the outcomes of trials."""


class _QueueCallback(Callback):
    """Reports the start and the outcome of each trial to the queue."""

    def __init__(self, queue: TrialQueue) -> None:
        self._queue = queue

    def on_trial_start(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        self._queue.started(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        self._queue.ended(trial.trial_id, trial.last_result)

    def on_trial_recover(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        self._queue.failed(trial.trial_id, _failure_reason(trial), retry=True)

    def on_trial_error(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        self._queue.failed(trial.trial_id, _failure_reason(trial), retry=False)


class _StopAll(Stopper):
    """Stops all trials once a condition is true."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._condition()


def _failure_reason(trial: Trial) -> str:
    """Describe in one line why a trial failed."""
    text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
    lines = [line.strip() for line in text.rpartition("Failure # ")[2].splitlines()[1:] if line.strip()]
    if not lines:
        return "no error message"
    # For an exception raised in the trial, the file contains a traceback, whose last line is the message.
    return lines[-1].removeprefix("RuntimeError: ") if "ray::" in lines[0] else lines[0]
