"""`last/` in the folder of a fold: checkpoints that are complete or absent, the newest and that of the best epoch.

last/00000120/
    model.safetensors        fp32 weights by name
    optimizer.safetensors    `exp_avg.<parameter>` and `exp_avg_sq.<parameter>`
    state.json               see `FoldState`
    manifest.json            size and SHA-256 of each file, written last
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import write_json_atomic
from ldarnet.runtime.checkpoint import CheckpointFolder, seal, verify
from ldarnet.runtime.checkpoint_files import save_tensors

FORMAT_VERSION = 2


@dataclass
class FoldState:
    """Where a fold stands, without tensors.

    Attributes:
        fingerprint: of the task's rows.
        step: optimiser steps so far.
        taken: those of them that were not skipped, up to the end of the last epoch.
        batch: batches of the epoch under way.
        loss: summed cross-entropy of their rows, over all ranks.
        skipped: steps of this epoch that were not taken, as their loss or gradient was not finite.
        seconds: in training, of the epoch under way and of all.
        course: what `PlateauSchedule.memory` gives.
        best_step: the checkpoint of the best epoch.
        first: the line of metrics before training.
        best: the line of the best epoch.
        format: version of this form.
    """

    fingerprint: str
    step: int = 0
    taken: int = 0
    batch: int = 0
    loss: float = 0.0
    skipped: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"epoch": 0.0, "all": 0.0})
    course: dict[str, Any] = field(default_factory=dict)
    best_step: int | None = None
    first: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT_VERSION


class FoldStore(CheckpointFolder):
    """Checkpoints of one fold.

    Args:
        fold: output folder of the fold.
    """

    def __init__(self, fold: Path) -> None:
        super().__init__(fold / run_files.LAST)

    def read(self, checkpoint: Path, fingerprint: str) -> FoldState:
        """The state of a checkpoint, whose files are checked.

        Raises:
            UserError: a file is damaged, or it was written by another version or with other rows.
        """
        verify(checkpoint, hint=f"delete {self.folder.parent} to train this fold anew")
        content = json.loads((checkpoint / run_files.STATE).read_text(encoding="utf-8"))
        if content.get("format") != FORMAT_VERSION:
            raise UserError(f"{checkpoint} is of another version of ldarnet; delete {self.folder.parent} to begin anew")
        if content["fingerprint"] != fingerprint:
            raise UserError(f"{checkpoint} was trained on other rows; give this run another run.dir")
        return FoldState(**content)

    def write(self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor], state: FoldState) -> None:
        """Write a checkpoint, unless it is there already, then remove all but it and the best.

        Raises:
            NotWritableError: the device is full or may not be written to; checkpoints written before stay.
        """
        if self.has(state.step):
            return
        with self.staged(state.step) as staged:
            save_tensors(weights, staged / run_files.WEIGHTS)
            save_tensors(moments, staged / run_files.OPTIMIZER)
            write_json_atomic(staged / run_files.STATE, asdict(state), indent=2)
            seal(staged, state.step)
        self.prune({self.path(step) for step in (state.step, state.best_step) if step is not None})
        self.clean()

    def remove(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)
