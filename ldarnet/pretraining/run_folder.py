"""Open a run folder and find the checkpoint to resume from."""

from dataclasses import dataclass
from pathlib import Path

from ldarnet.config import RunConfig, differences, load_config
from ldarnet.errors import TransientError, UserError
from ldarnet.io import run_files
from ldarnet.pretraining.mirror import Mirror
from ldarnet.runtime.checkpoint import CheckpointStore, TrainingState, read_state, verify
from ldarnet.runtime.checkpoint_files import save_config
from ldarnet.runtime.run_dir import check_same_configuration


@dataclass(frozen=True)
class ResumePoint:
    """Checkpoint and state from which a launch resumes.

    Attributes:
        checkpoint: newest complete checkpoint; None in a new run.
        state: training state stored in the checkpoint.
        remote_error: error that prevented reading `checkpoint.remote`; only set if the run is finished. If it is not
            finished, `open_run_folder` raises the error.
        notices: messages about folders that are kept because they lack the run ID of this run.
    """

    checkpoint: Path | None = None
    state: TrainingState | None = None
    remote_error: TransientError | None = None
    notices: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether all steps are completed."""
        return self.state is not None and self.state.step >= self.state.total_steps


def open_run_folder(config: RunConfig, store: CheckpointStore, fingerprint: str) -> ResumePoint:
    """Prepare the run folder and find the newest complete checkpoint, local or remote; rank 0 only.

    Args:
        config: run configuration.
        store: local checkpoints.
        fingerprint: fingerprint of the data set; the newest remote checkpoint must have the same fingerprint unless
            `data.accept_other` is set.

    Raises:
        TransientError: `checkpoint.remote` is temporarily unreadable, and the run is not finished.
        UserError: `checkpoint.remote` cannot be read; or a checkpoint in the run folder or in `checkpoint.remote` is
            damaged or belongs to another run.
    """
    run_dir = config.run.dir
    store.clean()
    store.load_run_id()
    checkpoint = local = store.latest()
    state = read_state(checkpoint) if checkpoint is not None else None  # first: another version may have other files
    last = state.total_steps if state else config.training.steps
    store.check_free(after=state.step if state else -1, last=last)
    saved = run_dir / run_files.CONFIG
    if checkpoint is not None:
        verify(checkpoint)
        _check_same(config, checkpoint, run_dir, "run.dir")
    elif saved.is_file() and differences(load_config(saved), config):
        # The configuration changed before the first checkpoint: start over with a new MLflow run.
        (run_dir / run_files.MLFLOW).unlink(missing_ok=True)
    remote_error = None
    if config.checkpoint.remote is not None:
        remote = f"checkpoint.remote={config.checkpoint.remote}"

        def check(folder: Path) -> None:
            _check_same(config, folder, config.checkpoint.remote, "checkpoint.remote")
            if read_state(folder).fingerprint != fingerprint and not config.data.accept_other:
                raise UserError(
                    f"{remote} holds a run trained on another data set; use another checkpoint.remote for this run, "
                    "or set data.accept_other=true to resume the existing run on the new data"
                )

        try:
            Mirror(config.checkpoint.remote).fetch(store, check, last)
        except TransientError as error:
            if not ResumePoint(checkpoint, state).finished:
                raise
            remote_error = error
        checkpoint = store.latest()
    save_config(config, saved)
    if checkpoint is None:
        return ResumePoint()
    if checkpoint != local:
        verify(checkpoint)
    notices = store.settle()
    return ResumePoint(checkpoint, read_state(checkpoint), remote_error, tuple(notices))


def _check_same(config: RunConfig, checkpoint: Path, folder: object, key: str) -> None:
    changed = differences(load_config(checkpoint / run_files.CONFIG), config)
    check_same_configuration(changed, folder, key, at=f" at step {read_state(checkpoint).step}")
