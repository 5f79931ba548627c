"""Checkpoint folders. A folder gets its final name only after it is complete; any number of ranks can load it.

    checkpoints/step-00000100/
        model.safetensors, config.json   fp32 weights; `from_pretrained` loads the folder
        optimizer.safetensors            `exp_avg.<parameter>` and `exp_avg_sq.<parameter>`, unpartitioned fp32
        state.json                       step, position in the data, seed, fingerprint, code version, best step, ...
        config.yaml                      run configuration
        manifest.json                    size and SHA-256 of each file, written last
    checkpoints/pointers.json            names of the latest and the best checkpoint

Nothing is pickled. :mod:`ldarnet.runtime.checkpoint_files` writes and reads the files.
"""

import shutil
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import (
    PARTIAL_SUFFIX,
    read_json,
    sha256_file,
    staged_folder,
    staging_path,
    sync_path,
    write_json_atomic,
)
from ldarnet.version import __version__

FORMAT_VERSION = 2


@dataclass(frozen=True)
class TrainingState:
    """Training state without tensors, after `step` completed optimizer steps.

    Attributes:
        step: number of completed optimizer steps.
        total_steps: number of optimizer steps in the whole run; schedule lengths are fractions of this number.
        position: number of training windows consumed so far; determines which windows come next.
        seed: random seed for initial weights, window order and masks.
        fingerprint: fingerprint of the shard set.
        seconds: wall time of training, summed over all launches.
        best_step: step of the checkpoint with the lowest validation loss; None before the first validation.
        best_loss: validation loss at `best_step`; None before the first validation.
        guard: return value of `Guard.state_dict`.
        code_version: version of this package that wrote the checkpoint.
        commit: git commit of the code that wrote the checkpoint, followed by `+` if tracked files were modified; None
            if the code is not tracked by git.
        format: version of the checkpoint format.
    """

    step: int
    total_steps: int
    position: int
    seed: int
    fingerprint: str
    seconds: float = 0.0
    best_step: int | None = None
    best_loss: float | None = None
    guard: dict[str, Any] = field(default_factory=lambda: {"accepted": 0, "in_a_row": 0, "losses": []})
    code_version: str = __version__
    commit: str | None = None
    format: int = FORMAT_VERSION

    def advanced(self, **changes: Any) -> "TrainingState":
        """Return a copy with the given attributes replaced."""
        return replace(self, **changes)


class CheckpointFolder:
    """Folder with one subfolder per checkpoint, named by step; incomplete checkpoints are never listed.

    Args:
        folder: path of the folder, which need not exist yet.
        prefix: text before the step number in the names of checkpoints.
    """

    def __init__(self, folder: Path, prefix: str = "") -> None:
        self.folder, self.prefix = folder, prefix

    def path(self, step: int) -> Path:
        """Path of the checkpoint for a step, whether or not it exists."""
        return self.folder / f"{self.prefix}{step:08d}"

    def has(self, step: int) -> bool:
        """Whether there is a complete checkpoint for a step."""
        return (self.path(step) / run_files.MANIFEST).is_file()

    def complete(self) -> list[Path]:
        """All complete checkpoints, oldest first."""
        return sorted(path.parent for path in self.folder.glob(f"{self.prefix}[0-9]*/{run_files.MANIFEST}"))

    def latest(self) -> Path | None:
        """The newest complete checkpoint; None if no checkpoint is complete."""
        return next(reversed(self.complete()), None)

    def staged(self, step: int) -> AbstractContextManager[Path]:
        """Yield a temporary folder, which becomes the checkpoint of `step` when the block succeeds.

        The block must write all files and call `seal`. If the block fails, the temporary folder is removed and earlier
        checkpoints are kept.

        Raises:
            NotWritableError: no permission to write, or the disk is full.
        """
        return staged_folder(self.path(step))

    def prune(self, keep: Collection[Path]) -> None:
        """Delete all complete checkpoints except those in `keep`; a partly deleted checkpoint is never listed."""
        for path in self.complete():
            if path not in keep:
                hidden = staging_path(path)
                shutil.rmtree(hidden, ignore_errors=True)
                path.rename(hidden)
                shutil.rmtree(hidden)

    def clean(self) -> None:
        """Delete leftovers of interrupted saves and deletions."""
        complete = set(self.complete())
        leftovers = set(self.folder.glob(f"{self.prefix}[0-9]*")) - complete
        leftovers.update(self.folder.glob(f".*{PARTIAL_SUFFIX}"))
        for path in leftovers:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


class CheckpointStore(CheckpointFolder):
    """Checkpoints of a pretraining run.

    Args:
        run_dir: run folder; checkpoints are in its `checkpoints` subfolder.
        keep: number of most recent checkpoints to keep, in addition to the best one.
    """

    def __init__(self, run_dir: Path, keep: int) -> None:
        super().__init__(run_dir / run_files.CHECKPOINTS, run_files.CHECKPOINT_PREFIX)
        self.keep = keep

    def best(self) -> Path | None:
        """The complete checkpoint with the lowest validation loss; None if no checkpoint is complete.

        Without validation, or if the best checkpoint is missing, this is the newest checkpoint.
        """
        latest = self.latest()
        if latest is None:
            return None
        step = read_state(latest).best_step
        return self.path(step) if step is not None and self.has(step) else latest

    def settle(self) -> None:
        """Write the names of the latest and the best checkpoint to pointers.json, then delete old checkpoints.

        The best checkpoint and the newest `keep` checkpoints are kept.
        """
        latest, best = self.latest(), self.best()
        assert latest is not None and best is not None
        write_json_atomic(self.folder / run_files.POINTERS, {"latest": latest.name, "best": best.name}, indent=2)
        self.prune({*self.complete()[-self.keep :], best})


def seal(folder: Path, step: int) -> None:
    """Flush all files of a checkpoint folder to disk, then write the manifest."""
    files = sorted(folder.iterdir())
    for file in files:
        sync_path(file)
    entries = {file.name: {"size": file.stat().st_size, "sha256": sha256_file(file)} for file in files}
    write_json_atomic(folder / run_files.MANIFEST, {"format": FORMAT_VERSION, "step": step, "files": entries}, indent=2)


def read_state(checkpoint: Path) -> TrainingState:
    """Read the training state of a checkpoint.

    Raises:
        UserError: `state.json` is damaged, or this version does not support its format.
    """
    content = read_json(checkpoint / run_files.STATE, f"restore it, or delete {checkpoint}")
    if content.get("format") != FORMAT_VERSION:
        raise UserError(
            f"{checkpoint / run_files.STATE}: checkpoint format {content.get('format')} is not supported (expected "
            f"{FORMAT_VERSION}); resume this run with the ldarnet version that wrote it ({content.get('code_version')})"
        )
    return TrainingState(**{field.name: content[field.name] for field in fields(TrainingState)})


def verify(checkpoint: Path, location: str | None = None, hint: str | None = None) -> None:
    """Compare every file of a checkpoint with its manifest.

    Args:
        checkpoint: checkpoint folder.
        location: path or URL to show in error messages; by default, `checkpoint`.
        hint: what to do about a damaged file, appended to error messages; the default is advice for a pretraining run.

    Raises:
        UserError: a file is missing, or its size or SHA-256 differs from the manifest.
    """
    location = location or str(checkpoint)
    hint = hint or f"restore it, or delete {location} to resume from the previous checkpoint"
    manifest = read_json(checkpoint / run_files.MANIFEST, hint)
    for name, entry in manifest["files"].items():
        file = checkpoint / name
        if not file.is_file():
            raise UserError(f"{location}/{name}: file is missing; {hint}")
        if file.stat().st_size != entry["size"] or sha256_file(file) != entry["sha256"]:
            raise UserError(
                f"{location}/{name}: file is damaged (size or SHA-256 differs from {run_files.MANIFEST}); {hint}"
            )
