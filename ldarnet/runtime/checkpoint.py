"""Checkpoint folders. A folder gets its final name only after it is complete; any number of ranks can load it.

    checkpoints/step-00000100/
        model.safetensors, config.json   fp32 weights; `from_pretrained` loads the folder
        optimizer.safetensors            `exp_avg.<parameter>` and `exp_avg_sq.<parameter>`, unpartitioned fp32;
                                         `momentum_buffer.<parameter>` for the matrices of Muon
        state.json                       step, position in the data, seed, fingerprint, code version, best step, ...
        config.yaml                      run configuration
        manifest.json                    size and SHA-256 of each file, written last
    checkpoints/pointers.json            names of the latest and the best checkpoint

Nothing is pickled. :mod:`ldarnet.runtime.checkpoint_files` writes and reads the files.
"""

import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

from ldarnet.errors import TransientError, UserError
from ldarnet.io import run_files
from ldarnet.io.files import PARTIAL_SUFFIX, staged_folder, staging_path, write_json_atomic
from ldarnet.io.manifest import FORMAT_VERSION, Manifest, check_complete, read_manifest, verify_files
from ldarnet.io.names import FileName
from ldarnet.io.records import Count, RunId, parse_record, read_record
from ldarnet.printable import printable
from ldarnet.version import __version__

REQUIRED_FILES = frozenset(
    {run_files.WEIGHTS, run_files.MODEL_CONFIG, run_files.OPTIMIZER, run_files.STATE, run_files.CONFIG}
)
"""Files of a complete checkpoint of a pretraining run, besides the manifest."""


class GuardState(TypedDict):
    """State of the guard: see `Guard.state_dict`."""

    accepted: Count
    in_a_row: Count
    losses: list[FiniteFloat]


class ChunkState(TypedDict):
    """State of the static number of chunks: see `ChunkCapacity.state_dict`."""

    settled: Count
    pending: list[list[FiniteFloat]]


def no_guard_state() -> GuardState:
    """State of the guard before the first step."""
    return {"accepted": 0, "in_a_row": 0, "losses": []}


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
        chunks: return value of `ChunkCapacity.state_dict`; None with `training.chunk_capacity_factor=null`.
        code_version: version of this package that wrote the checkpoint.
        commit: git commit of the code that wrote the checkpoint, followed by `+` if tracked files were modified; None
            if the code is not tracked by git.
        run_id: see `CheckpointFolder.run_id`; None in checkpoints that older versions of this package wrote.
        format: version of the checkpoint format.
    """

    step: Count
    total_steps: Count
    position: Count
    seed: int
    fingerprint: str
    seconds: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    best_step: Count | None = None
    best_loss: FiniteFloat | None = None
    guard: GuardState = field(default_factory=no_guard_state)
    chunks: ChunkState | None = None
    code_version: str = __version__
    commit: str | None = None
    run_id: RunId | None = None
    format: int = FORMAT_VERSION

    def advanced(self, **changes: Any) -> "TrainingState":
        """Return a copy with the given attributes replaced."""
        return replace(self, **changes)


class CheckpointFolder:
    """Folder with one subfolder per checkpoint, named by step; incomplete checkpoints are never listed.

    A checkpoint is complete if its manifest is valid and names every required file, and if the step in the manifest is
    the step in the name of the folder. The methods delete only temporary files, temporary folders, and complete
    checkpoints with the run ID of this run.

    Args:
        folder: path of the folder, which need not exist yet.
        required: files of a complete checkpoint, besides the manifest.
        prefix: text before the step number in the names of checkpoints.

    Attributes:
        run_id: random ID in the manifests of this run; None until `load_run_id` or `ensure_run_id` is called.
    """

    def __init__(self, folder: Path, required: Collection[str], prefix: str = "") -> None:
        self.folder, self.required, self.prefix = folder, required, prefix
        self.run_id: str | None = None
        self._reported: set[str] = set()

    def path(self, step: int) -> Path:
        """Path of the checkpoint for a step, whether or not it exists."""
        return self.folder / f"{self.prefix}{step:08d}"

    def step(self, checkpoint: Path) -> int:
        """Step of a checkpoint, from its name."""
        return int(checkpoint.name.removeprefix(self.prefix))

    def check(self, manifest: Manifest, name: str, *, where: str, hint: str) -> None:
        """Check that a manifest describes a complete checkpoint in the folder `name`.

        Args:
            manifest: manifest of the folder.
            name: name of the folder.
            where: path or URL to show in error messages.
            hint: what to do about the error, appended to error messages.

        Raises:
            UserError: the manifest lacks a required file, or its step does not match `name`.
        """
        check_complete(manifest, self.required, where=where, hint=hint)
        if manifest.step is None or self.path(manifest.step).name != name:
            raise UserError(
                f"{where}: step {manifest.step} in {run_files.MANIFEST} does not match the folder name; {hint}"
            )

    def parse(self, content: bytes, name: str) -> Manifest | None:
        """Parse the manifest of the folder `name`; None if the folder is not a complete checkpoint."""
        try:
            manifest = parse_record(content, Manifest, where=name, hint="")
            self.check(manifest, name, where=name, hint="")
        except UserError:
            return None
        return manifest

    def load_run_id(self) -> None:
        """If `run_id` is None, read it from the manifests in the folder; it stays None if they have no run ID."""
        self.run_id = self.run_id or self._recorded(self._manifests())

    def ensure_run_id(self) -> None:
        """If `run_id` is None, set it to the run ID of the checkpoints in the folder, or else to a new random ID."""
        self.load_run_id()
        self.run_id = self.run_id or secrets.token_hex(16)

    def has(self, step: int) -> bool:
        """Whether there is a complete checkpoint of this run for a step."""
        return self.path(step) in self.complete()

    def complete(self) -> list[Path]:
        """All complete checkpoints of this run, oldest first.

        Includes checkpoints without a run ID, which older versions wrote.
        """
        found = self._manifests()
        run_id = self.run_id or self._recorded(found)
        return [path for path, manifest in found.items() if run_id is None or manifest.run_id in (None, run_id)]

    def latest(self) -> Path | None:
        """The newest complete checkpoint of this run; None if there is none."""
        return next(reversed(self.complete()), None)

    def staged(self, step: int) -> AbstractContextManager[Path]:
        """Yield a temporary folder, which becomes the checkpoint of `step` when the block succeeds.

        The block must write all files, and the manifest last. If the block fails, the temporary folder is removed and
        earlier checkpoints are kept.

        Raises:
            NotWritableError: no permission to write, or the disk is full.
            UserError: the path of the checkpoint already exists.
        """
        if os.path.lexists(self.path(step)):
            raise UserError(f"{self.path(step)}: exists, but is not a checkpoint of this run; move it away")
        return staged_folder(self.path(step))

    def prune(self, keep: Collection[Path]) -> list[str]:
        """Delete the checkpoints that have the run ID of this run, except those in `keep`.

        Each checkpoint is renamed before it is deleted, so that partly deleted checkpoints are never listed.

        Returns:
            A message about each folder that is kept because it lacks the run ID of this run. Messages that an earlier
            call returned are omitted.
        """
        for path, manifest in self._manifests().items():
            if path not in keep and self.run_id is not None and manifest.run_id == self.run_id:
                hidden = staging_path(path)
                shutil.rmtree(hidden, ignore_errors=True)
                path.rename(hidden)
                shutil.rmtree(hidden)
        return self.report_kept(str(path) for path in sorted(self._candidates()) if path not in keep)

    def report_kept(self, locations: Iterable[str]) -> list[str]:
        """Return a message about each path or URL that is kept because it lacks the run ID of this run.

        Paths and URLs that were reported by an earlier call are omitted.
        """
        new = [location for location in locations if location not in self._reported]
        self._reported.update(new)
        return [
            f"{printable(location)}: not deleted, because its {run_files.MANIFEST} does not have the ID of this run"
            for location in new
        ]

    def clean(self) -> None:
        """Delete leftovers of interrupted saves and deletions."""
        ours = rf"\.({re.escape(self.prefix)}\d{{8,}}|{re.escape(run_files.POINTERS)}\.[0-9a-f]{{8}})"
        for path in self.folder.glob(f".*{PARTIAL_SUFFIX}"):
            if re.fullmatch(ours + re.escape(PARTIAL_SUFFIX), path.name):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def check_free(self, after: int, last: int | None) -> None:
        """Check that nothing exists at the paths of the checkpoints that this run has yet to write.

        Args:
            after: step of the newest checkpoint of this run.
            last: last step of the run; None if unknown.

        Raises:
            UserError: one of these paths exists, for example as a damaged checkpoint or a checkpoint of another run.
        """
        for path in sorted(set(self._candidates()) - set(self.complete())):
            if not self.is_due(path.name, after, last):
                continue
            if (path / run_files.MANIFEST).is_file():
                hint = f"restore it, or delete {path} to resume from the previous checkpoint"
                self.check(read_manifest(path, hint), path.name, where=str(path), hint=hint)
            raise UserError(f"{path}: not a checkpoint of this run, but this run will write to this path; move it away")

    def is_due(self, name: str, after: int, last: int | None) -> bool:
        """Whether `name` is the name of a checkpoint with step > `after` and, if `last` is known, step <= `last`."""
        digits = name.removeprefix(self.prefix)
        if not digits.isdecimal() or self.path(int(digits)).name != name:
            return False
        return int(digits) > after and (last is None or int(digits) <= last)

    def _candidates(self) -> Iterable[Path]:
        """Every path in the folder whose name looks like that of a checkpoint."""
        return self.folder.glob(f"{self.prefix}[0-9]*")

    def _manifests(self) -> dict[Path, Manifest]:
        """Manifest of each complete checkpoint, of any run, oldest first."""
        found = {}
        for path in self._candidates():
            try:
                manifest = read_manifest(path, hint="")
                self.check(manifest, path.name, where=path.name, hint="")
            except TransientError:
                raise
            except UserError:
                continue
            found[path] = manifest
        return dict(sorted(found.items(), key=lambda item: item[1].step or 0))

    def _recorded(self, found: dict[Path, Manifest]) -> str | None:
        """Run ID in the newest manifest of `found`; None if this manifest has no run ID or `found` is empty."""
        return next((manifest.run_id for manifest in reversed(found.values())), None)


@dataclass(frozen=True)
class Pointers:
    """Content of pointers.json: names of the latest and the best checkpoint."""

    latest: FileName | None = None
    best: FileName | None = None


class CheckpointStore(CheckpointFolder):
    """Checkpoints of a pretraining run.

    Args:
        run_dir: run folder; checkpoints are in its `checkpoints` subfolder.
        keep: number of most recent checkpoints to keep, in addition to the best one.
    """

    def __init__(self, run_dir: Path, keep: int) -> None:
        super().__init__(run_dir / run_files.CHECKPOINTS, REQUIRED_FILES, run_files.CHECKPOINT_PREFIX)
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

    def settle(self) -> list[str]:
        """Write the names of the latest and the best checkpoint to pointers.json, then delete old checkpoints.

        The best checkpoint and the newest `keep` checkpoints are kept.

        Returns:
            A message about each folder that is kept because it lacks the run ID of this run. Messages that an earlier
            call returned are omitted.
        """
        latest, best = self.latest(), self.best()
        assert latest is not None and best is not None
        write_json_atomic(self.folder / run_files.POINTERS, {"latest": latest.name, "best": best.name}, indent=2)
        return self.prune({*self.complete()[-self.keep :], best})

    def _recorded(self, found: dict[Path, Manifest]) -> str | None:
        """Run ID of the latest checkpoint that pointers.json names.

        If that checkpoint is not in `found`, use the best checkpoint that pointers.json names; if that is not in
        `found` either, use the newest checkpoint in `found`. None if the checkpoint has no run ID or `found` is empty.
        """
        pointers = Pointers()
        path = self.folder / run_files.POINTERS
        if path.is_file():
            pointers = read_record(path, Pointers, hint=f"delete {path}; the next launch writes it again")
        for name in (pointers.latest, pointers.best):
            if name is not None and (manifest := found.get(self.folder / name)) is not None:
                return manifest.run_id
        return super()._recorded(found)


@dataclass(frozen=True)
class _StateFormat:
    format: Count | None = None
    code_version: str | None = None


def read_state(checkpoint: Path) -> TrainingState:
    """Read the training state of a checkpoint.

    Raises:
        UserError: `state.json` is damaged, or this version of LDARNet does not support its format.
    """
    file, hint = checkpoint / run_files.STATE, f"restore it, or delete {checkpoint}"
    written = read_record(file, _StateFormat, hint=hint)
    if written.format != FORMAT_VERSION:
        version = printable(written.code_version or "unknown version")[:40]
        raise UserError(
            f"{file}: checkpoint format {written.format} is not supported (expected {FORMAT_VERSION}); resume this run "
            f"with the ldarnet version that wrote the checkpoint ({version})"
        )
    return read_record(file, TrainingState, hint=hint)


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
    verify_files(checkpoint, read_manifest(checkpoint, hint), hint=hint, where=location)
