"""Asynchronous checkpoints: all ranks gather the state, then a thread on rank 0 writes it while training continues."""

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Self

from ldarnet.config import RunConfig
from ldarnet.errors import TransientError, UserError
from ldarnet.io.manifest import write_manifest
from ldarnet.pretraining.mirror import Mirror
from ldarnet.runtime.checkpoint import CheckpointStore, TrainingState
from ldarnet.runtime.checkpoint_files import CheckpointContents, code_commit
from ldarnet.runtime.distributed import World, user_error
from ldarnet.runtime.engine import Engine
from ldarnet.runtime.host_buffers import HostBuffers
from ldarnet.runtime.rank_log import LOG
from ldarnet.runtime.zero_state import whole_moments, whole_weights
from ldarnet.version import __version__

Report = Callable[[str], None]


def copy_missing(config: RunConfig, store: CheckpointStore, report: Report) -> None:
    """Bring `checkpoint.remote` up to date when a finished run is launched again; call on rank 0 only.

    Uploads the checkpoints that `checkpoint.remote` lacks, and deletes the remote checkpoints of this run that no
    longer exist locally.

    Args:
        config: run configuration.
        store: local checkpoints.
        report: called with a message if the update fails, and with a message about each remote folder that is kept
            because it lacks the run ID of this run.

    Raises:
        UserError: `checkpoint.remote` has an unknown protocol or needs a package that is not installed.
    """
    if config.checkpoint.remote is not None:
        _copy(store, Mirror(config.checkpoint.remote), report, report)


def _copy(store: CheckpointStore, mirror: Mirror, report: Report, notice: Report) -> None:
    """Update the remote copy. A failure is reported but not raised; the next checkpoint or launch retries."""
    try:
        for text in mirror.update(store):
            notice(text)
    except (UserError, OSError) as error:
        reason = user_error(error)
        report(
            f"checkpoints not copied, local checkpoints are complete ({reason}); retrying at the next checkpoint or "
            "launch"
        )


class CheckpointWriter:
    """Thread on rank 0 that writes checkpoints, one at a time.

    Args:
        config: run configuration.
        store: local checkpoints.
        report: called from the thread, with the reason, when a checkpoint cannot be written or copied.
        notice: called from the thread, with a message about each folder that is kept because it lacks the run ID of
            this run.

    Raises:
        UserError: `checkpoint.remote` has an unknown protocol or needs a package that is not installed.
    """

    def __init__(self, config: RunConfig, store: CheckpointStore, report: Report, notice: Report = LOG.warning) -> None:
        self._store = store
        self._store.ensure_run_id()
        self._report, self._notice = report, notice
        self._mirror = Mirror(config.checkpoint.remote) if config.checkpoint.remote else None
        self._code = {"code_version": __version__, "commit": code_commit()}
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[UserError | None] | None = None

    def submit(self, contents: CheckpointContents) -> None:
        """Queue a checkpoint. The thread writes it, deletes old checkpoints and updates `checkpoint.remote`."""
        contents = replace(contents, state=contents.state.advanced(**self._code, run_id=self._store.run_id))
        self._last = self._thread.submit(self._write, contents)

    def wait(self) -> UserError | None:
        """Wait until all queued checkpoints are written; return the error of the last one, or None."""
        return self._last.result() if self._last else None

    def close(self) -> None:
        """Write the queued checkpoints and end the thread."""
        self._thread.shutdown()

    def _write(self, contents: CheckpointContents) -> UserError | None:
        step = contents.state.step
        try:
            with self._store.staged(step) as folder:
                contents.write(folder)
                write_manifest(folder, step=step, run_id=contents.state.run_id)
        except (UserError, OSError) as error:
            failure = user_error(error)
        except Exception as error:  # training continues after a failed checkpoint
            LOG.exception("checkpoint of step %d not written", step)
            failure = TransientError(f"{self._store.path(step)}: {type(error).__name__}: {error}")
        else:
            self._settle(step)
            if self._mirror is not None:
                _copy(self._store, self._mirror, self._report, self._notice)
            return None
        self._report(
            f"checkpoint of step {step} not written: {str(failure).partition(';')[0]}; earlier checkpoints are kept"
        )
        return failure

    def _settle(self, step: int) -> None:
        """Delete old checkpoints. A failure is reported but not raised; the next checkpoint or launch retries."""
        try:
            for text in self._store.settle():
                self._notice(text)
        except (UserError, OSError) as error:
            reason = str(user_error(error)).partition(";")[0]
            self._report(f"checkpoint of step {step} written, but old checkpoints could not be deleted: {reason}")


class AsyncCheckpointer:
    """Saves checkpoints asynchronously; every rank must call every method.

    If a checkpoint cannot be written, the failure is reported and training continues; earlier checkpoints are kept.
    `finish` raises an error only if the last checkpoint of a launch cannot be written. If a checkpoint cannot be copied
    to `checkpoint.remote`, the failure is reported and the next checkpoint or launch retries the copy.

    The writer thread on rank 0 calls `report` and `notice`.

    Args:
        config: run configuration.
        store: local checkpoints.
        world: the ranks.
        state: training state at launch.
        report: called with the reason when a checkpoint cannot be written or copied.
        notice: called with a message about each folder that is kept because it lacks the run ID of this run.

    Raises:
        UserError: `checkpoint.remote` has an unknown protocol or needs a package that is not installed; raised on all
            ranks.
    """

    def __init__(
        self,
        config: RunConfig,
        store: CheckpointStore,
        world: World,
        state: TrainingState,
        report: Report,
        notice: Report = LOG.warning,
    ) -> None:
        self._config = config
        self._store = store
        self._world = world
        self._saved = state
        self._pending: TrainingState | None = None
        self._buffers = HostBuffers(world.device)
        self._writer = world.on_main(lambda: CheckpointWriter(config, store, report, notice))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Wait for the pending write on rank 0, then end the writer thread.

        If the block raised a UserError, the other ranks also wait for the write.
        """
        try:
            if isinstance(error, UserError):
                self._wait()
        finally:
            if self._writer is not None:
                self._writer.close()

    def save(self, engine: Engine, state: TrainingState) -> TrainingState:
        """Wait until the previous checkpoint is written, then gather a new checkpoint and queue it for writing.

        On a GPU, the host copies may be incomplete when this method returns. The writer thread waits for them.

        Returns:
            The training state in the new checkpoint: `state`, corrected by `settle`.
        """
        state = self.settle(state)
        weights = self._buffers.copy(whole_weights(engine), keep=self._world.is_main)
        moments = self._buffers.copy(whole_moments(engine), keep=self._world.is_main)
        self._pending = state
        if self._writer is not None:
            model_config = copy.deepcopy(engine.model_config)
            model_config.architectures = [type(engine.model).__name__]
            wait = self._buffers.wait
            self._writer.submit(CheckpointContents(weights, moments, model_config, self._config, state, wait))
        return state

    def settle(self, state: TrainingState) -> TrainingState:
        """Wait for the pending write, then correct the best step if its checkpoint could not be written.

        Returns:
            `state`. If the checkpoint of `best_step` could not be written, `best_step` and `best_loss` are replaced by
            the values in the last checkpoint that was written.
        """
        self._wait()
        if state.best_step is not None and self._saved.step < state.best_step < state.step:
            return state.advanced(best_step=self._saved.best_step, best_loss=self._saved.best_loss)
        return state

    def finish(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            UserError: the last checkpoint could not be written; raised on all ranks.
        """
        self._wait()
        self._world.raise_together(self._writer.wait() if self._writer else None)

    def _wait(self) -> None:
        """Wait for the pending write, and record on all ranks whether it succeeded."""
        if self._pending is None:
            return
        if self._writer is not None:
            self._writer.wait()
        if self._world.sum_on_host(self._world.is_main and self._store.has(self._pending.step))[0]:
            self._saved = self._pending
        self._pending = None
