"""Checkpoints of a fold in `last/`, written atomically.

The latest checkpoint and the checkpoint of the best epoch are kept; all others are deleted.

last/00000120/
    model.safetensors        fp32 weights by name
    optimizer.safetensors    `exp_avg.<parameter>` and `exp_avg_sq.<parameter>`
    state.json               see `FoldState`
    manifest.json            size and SHA-256 of each file, written last
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat
from torch import Tensor

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import write_json_atomic
from ldarnet.io.manifest import write_manifest
from ldarnet.io.records import Count, read_record
from ldarnet.runtime.checkpoint import CheckpointFolder, verify
from ldarnet.runtime.checkpoint_files import save_tensors

FORMAT_VERSION = 2
REQUIRED_FILES = frozenset({run_files.WEIGHTS, run_files.OPTIMIZER, run_files.STATE})


@dataclass
class FoldState:
    """Training state of a fold, without tensors.

    Attributes:
        fingerprint: fingerprint of the rows (`TaskData.fingerprint`).
        step: number of optimizer steps so far, including skipped steps.
        taken: number of optimizer steps in completed epochs, excluding skipped steps.
        batch: number of batches processed in the current epoch.
        loss: sum of the cross-entropy over the rows processed in the current epoch, on all ranks; excludes skipped
            steps.
        skipped: number of steps in the current epoch that were skipped because of a non-finite loss or gradient.
        seconds: training time in seconds; key `epoch` for the current epoch, key `all` for the whole fold.
        course: state of the epoch schedule (`PlateauSchedule.state_dict`).
        best_step: step at the end of the best epoch.
        first: line of metrics.jsonl with the validation metrics before training.
        best: line of metrics.jsonl for the best epoch.
        format: version of the checkpoint format.
    """

    fingerprint: str
    step: Count = 0
    taken: Count = 0
    batch: Count = 0
    loss: FiniteFloat = 0.0
    skipped: Count = 0
    seconds: dict[str, FiniteFloat] = field(default_factory=lambda: {"epoch": 0.0, "all": 0.0})
    course: dict[str, Any] = field(default_factory=dict)
    best_step: Count | None = None
    first: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    format: Count = FORMAT_VERSION


class FoldStore(CheckpointFolder):
    """Checkpoints of one fold.

    Args:
        fold: output folder of the fold.
    """

    def __init__(self, fold: Path) -> None:
        super().__init__(fold / run_files.LAST, REQUIRED_FILES)

    def read(self, checkpoint: Path, fingerprint: str) -> FoldState:
        """Read the state of a checkpoint and verify its files.

        Raises:
            UserError: a file is damaged, the checkpoint was written by another version of ldarnet, or the fold was
                trained on different rows.
        """
        hint = f"delete {self.folder.parent} to retrain the fold"
        verify(checkpoint, hint=hint)
        state = read_record(checkpoint / run_files.STATE, FoldState, hint=hint)
        if state.format != FORMAT_VERSION:
            raise UserError(
                f"{checkpoint}: written by another version of ldarnet; delete {self.folder.parent} to retrain the fold"
            )
        if state.fingerprint != fingerprint:
            raise UserError(f"{checkpoint}: the fold was trained on different rows; choose another run.dir")
        return state

    def write(self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor], state: FoldState) -> list[str]:
        """Write a checkpoint, then delete all other checkpoints of this run except that of the best epoch.

        Does nothing if there already is a checkpoint of `state.step`.

        Returns:
            Warnings about folders that were not deleted because they do not have the ID of this run. Each folder is
            reported only once.

        Raises:
            NotWritableError: no permission to write, or the device is full; earlier checkpoints are kept.
        """
        if self.has(state.step):
            return []
        self.ensure_run_id()
        with self.staged(state.step) as staged:
            save_tensors(weights, staged / run_files.WEIGHTS)
            save_tensors(moments, staged / run_files.OPTIMIZER)
            write_json_atomic(staged / run_files.STATE, asdict(state), indent=2)
            write_manifest(staged, step=state.step, run_id=self.run_id)
        kept = self.prune({self.path(step) for step in (state.step, state.best_step) if step is not None})
        self.clean()
        return kept

    def remove(self) -> list[str]:
        """Remove all checkpoints of this run.

        Returns:
            Warnings about folders that were not deleted because they do not have the ID of this run. Each folder is
            reported only once.
        """
        self.load_run_id()
        kept = self.prune(())
        self.clean()
        with suppress(OSError):  # missing, or not empty
            self.folder.rmdir()
        return kept
