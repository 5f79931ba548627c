"""Saving while training goes on: all ranks gather, then a thread of rank 0 writes."""

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Self

from ldarnet.config import RunConfig
from ldarnet.errors import TransientError, UserError
from ldarnet.pretraining.mirror import Mirror
from ldarnet.runtime.checkpoint import CheckpointStore, TrainingState, seal
from ldarnet.runtime.checkpoint_files import Contents, code_commit
from ldarnet.runtime.distributed import World, user_error
from ldarnet.runtime.engine import Engine
from ldarnet.runtime.rank_log import LOG
from ldarnet.runtime.zero_state import on_host, whole_moments, whole_parameters
from ldarnet.version import __version__

Shout = Callable[[str], None]


def bring_up_to_date(config: RunConfig, store: CheckpointStore, shout: Shout) -> None:
    """Send the mirror what a run that has ended could not; rank 0 only.

    Args:
        config: of the run.
        store: the folder of its checkpoints.
        shout: told if it cannot be sent.

    Raises:
        UserError: checkpoint.remote cannot be used.
    """
    if config.checkpoint.remote is not None:
        _copy(store, Mirror(config.checkpoint.remote), shout)


def _copy(store: CheckpointStore, mirror: Mirror, shout: Shout) -> None:
    """Bring the mirror up to date; what it lacks is sent by the next save or start."""
    try:
        mirror.update(store)
    except (UserError, OSError) as error:
        reason = user_error(error)
        shout(f"checkpoints are saved here but NOT COPIED ({reason}); the next save or start tries again")


class Writer:
    """The thread of rank 0 that writes checkpoints, one at a time.

    Args:
        config: of the run.
        store: the folder of its checkpoints.
        shout: told of every checkpoint that could not be written or copied, from the thread.

    Raises:
        UserError: checkpoint.remote cannot be used.
    """

    def __init__(self, config: RunConfig, store: CheckpointStore, shout: Shout) -> None:
        self._store = store
        self._shout = shout
        self._mirror = Mirror(config.checkpoint.remote) if config.checkpoint.remote else None
        self._code = {"code_version": __version__, "commit": code_commit()}
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[UserError | None] | None = None

    def begin(self, contents: Contents) -> None:
        """Write a checkpoint, and on from there: remove old ones, bring the mirror up to date."""
        contents = replace(contents, state=contents.state.advanced(**self._code))
        self._last = self._thread.submit(self._write, contents)

    def wait(self) -> UserError | None:
        """Wait until all is written; why the last checkpoint was not, if so."""
        return self._last.result() if self._last else None

    def close(self) -> None:
        """End the thread, when all is written."""
        self._thread.shutdown()

    def _write(self, contents: Contents) -> UserError | None:
        step = contents.state.step
        try:
            with self._store.staged(step) as folder:
                contents.write(folder)
                seal(folder, step)
        except (UserError, OSError) as error:
            failure = user_error(error)
        except Exception as error:  # whatever it is, it is no reason to lose the run
            LOG.exception("writing the checkpoint of step %d", step)
            failure = TransientError(f"{self._store.path(step)}: {type(error).__name__}: {error}")
        else:
            self._settle(step)
            if self._mirror is not None:
                _copy(self._store, self._mirror, self._shout)
            return None
        self._shout(f"checkpoint of step {step} is NOT SAVED: {str(failure).partition(';')[0]}; those before it stay")
        return failure

    def _settle(self, step: int) -> None:
        """What cannot be tidied is tidied with the next checkpoint or by the next start."""
        try:
            self._store.settle()
        except (UserError, OSError) as error:
            reason = str(user_error(error)).partition(";")[0]
            self._shout(f"checkpoint of step {step} is saved, but older ones could not be tidied away: {reason}")


class Saver:
    """Saves the state of all ranks; every rank calls every method.

    A checkpoint that cannot be written is told and left out: those before it stay, training goes on, and the next one
    is tried. Only if the last one of a start fails, `finish` does. One that cannot be copied to checkpoint.remote is
    told, and copied with the next one or by the next start.

    Args:
        config: of the run.
        store: the folder of its checkpoints.
        world: the ranks.
        state: where the run stands.
        shout: told of every checkpoint that could not be written or copied; on rank 0, from another thread.

    Raises:
        UserError: checkpoint.remote cannot be used; on all ranks.
    """

    def __init__(
        self, config: RunConfig, store: CheckpointStore, world: World, state: TrainingState, shout: Shout
    ) -> None:
        self._config = config
        self._store = store
        self._world = world
        self._kept = state
        self._sent: TrainingState | None = None
        self._writer = world.on_main(lambda: Writer(config, store, shout))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Let the write in flight end: after a UserError, which all ranks raise together, before any of them leaves."""
        try:
            if isinstance(error, UserError):
                self._wait()
        finally:
            if self._writer is not None:
                self._writer.close()

    def save(self, engine: Engine, state: TrainingState) -> TrainingState:
        """Gather a checkpoint and begin to write it, once the one before is written; returns the state in it."""
        state = self.settle(state)
        weights = on_host(whole_parameters(engine), kept=self._world.is_main)
        moments = on_host(whole_moments(engine), kept=self._world.is_main)
        self._sent = state
        if self._writer is not None:
            model_config = copy.deepcopy(engine.model_config)
            model_config.architectures = [type(engine.model).__name__]
            self._writer.begin(Contents(weights, moments, model_config, self._config, state))
        return state

    def settle(self, state: TrainingState) -> TrainingState:
        """Wait for the write in flight. A best checkpoint that could not be written is the best no more."""
        self._wait()
        if state.best_step is not None and self._kept.step < state.best_step < state.step:
            return state.advanced(best_step=self._kept.best_step, best_loss=self._kept.best_loss)
        return state

    def finish(self) -> None:
        """Wait for the last write.

        Raises:
            UserError: it failed; on all ranks.
        """
        self._wait()
        self._world.raise_together(self._writer.wait() if self._writer else None)

    def _wait(self) -> None:
        """Wait until all is written, and agree on whether the checkpoint is there."""
        if self._sent is None:
            return
        if self._writer is not None:
            self._writer.wait()
        if self._world.sum_on_host(self._world.is_main and self._store.has(self._sent.step))[0]:
            self._kept = self._sent
        self._sent = None
