"""What stands in a run folder, and so what a start has to do: begin, continue, or nothing."""

import fcntl
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ldarnet.config import RunConfig, differences, load_config
from ldarnet.errors import UserError
from ldarnet.files import space_errors
from ldarnet.training.checkpoint import CheckpointStore, TrainingState, read_state, verify
from ldarnet.training.tracking import RUN_FILE

CONFIG_NAME = "config.yaml"


@dataclass(frozen=True)
class Found:
    """The checkpoint to continue from, and its state; None in a new run."""

    checkpoint: Path | None = None
    state: TrainingState | None = None

    @property
    def finished(self) -> bool:
        """Whether all steps have been taken."""
        return self.state is not None and self.state.step >= self.state.total_steps


def open_run_folder(config: RunConfig, store: CheckpointStore) -> Found:
    """Prepare the run folder and find the newest complete checkpoint; rank 0 only.

    Raises:
        UserError: the folder holds a run of another configuration, or a checkpoint that has changed.
    """
    run_dir = config.run.dir
    store.clean()
    checkpoint = store.latest()
    saved = run_dir / CONFIG_NAME
    if saved.is_file():
        changed = differences(load_config(saved), config)
        if changed and checkpoint is not None:
            raise UserError(
                f"{run_dir} holds a run of another configuration ({'; '.join(changed)}); give this one another "
                f"run.dir, or delete {run_dir}"
            )
        if changed:  # nothing was learnt yet, so there is nothing to mix
            (run_dir / RUN_FILE).unlink(missing_ok=True)
    if checkpoint is not None:
        verify(checkpoint)
    # Where to stop for now belongs to one start, not to the run.
    config.model_copy(update={"training": config.training.model_copy(update={"stop_after": None})}).save(saved)
    return Found(checkpoint, read_state(checkpoint)) if checkpoint is not None else Found()


def lock(run_dir: Path) -> IO[str]:
    """Hold the run folder until the returned file is closed or the process ends, however it ends.

    Raises:
        UserError: another process trains in it, or the folder cannot be made.
    """
    path = run_dir / ".lock"
    try:
        with space_errors(path):
            run_dir.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
    except OSError as error:
        raise UserError(f"cannot write in run.dir={run_dir}: {error.strerror}; choose another run.dir") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(f"another training uses {run_dir}; wait for it to end, or choose another run.dir") from None
    except OSError:
        # Some network file systems have no locks; then two trainings in one folder are the user's to avoid.
        pass
    return file
