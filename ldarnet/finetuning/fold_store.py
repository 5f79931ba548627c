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
from typing import Annotated, Any

from pydantic import AfterValidator, Field, FiniteFloat, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import TypedDict

from ldarnet.errors import UserError
from ldarnet.finetuning.plateau import PlateauState
from ldarnet.finetuning.records import EpochLine
from ldarnet.io import run_files
from ldarnet.io.files import write_json_atomic
from ldarnet.io.manifest import write_manifest
from ldarnet.io.records import Count, describe, read_record
from ldarnet.runtime.checkpoint import CheckpointFolder, verify
from ldarnet.runtime.checkpoint_files import save_tensors

FORMAT_VERSION = 2
REQUIRED_FILES = frozenset({run_files.WEIGHTS, run_files.OPTIMIZER, run_files.STATE})


class _Seconds(TypedDict):
    epoch: Annotated[FiniteFloat, Field(ge=0)]
    all: Annotated[FiniteFloat, Field(ge=0)]


def _empty_or(kind: Any) -> AfterValidator:
    """Validator that requires a dict to be empty or a record of type `kind`."""
    adapter = TypeAdapter(kind)

    def check(value: dict[str, Any]) -> dict[str, Any]:
        try:
            return adapter.validate_python(value, strict=True) if value else value
        except ValidationError as error:
            raise ValueError(describe(error)) from None

    return AfterValidator(check)


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
        course: state of the epoch schedule; empty before the first checkpoint.
        best_step: step at the end of the best epoch.
        first: line of metrics.jsonl with the validation metrics before training; empty until they are computed.
        best: line of metrics.jsonl for the best epoch; empty before the first epoch is completed.
        format: version of the checkpoint format.
    """

    fingerprint: str
    step: Count = 0
    taken: Count = 0
    batch: Count = 0
    loss: FiniteFloat = 0.0
    skipped: Count = 0
    seconds: Annotated[dict[str, FiniteFloat], Field(min_length=1), _empty_or(_Seconds)] = field(
        default_factory=lambda: {"epoch": 0.0, "all": 0.0}
    )
    course: Annotated[dict[str, Any], _empty_or(PlateauState)] = field(default_factory=dict)
    best_step: Count | None = None
    first: Annotated[dict[str, Any], _empty_or(EpochLine)] = field(default_factory=dict)
    best: Annotated[dict[str, Any], _empty_or(EpochLine)] = field(default_factory=dict)
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
        known = {state.best_step is not None, bool(state.best), bool(state.course and state.course["best_epoch"])}
        if len(known) > 1 or state.step != self.step(checkpoint):
            raise UserError(f"{checkpoint / run_files.STATE}: damaged (steps or epochs contradict each other); {hint}")
        return state

    def write(self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor], state: FoldState) -> list[str]:
        """Write a checkpoint, then delete all other checkpoints of this run except that of the best epoch.

        Does nothing if there already is a checkpoint of `state.step`.

        Returns:
            Warnings about folders that were kept because they do not have the ID of this run. Each folder is
            reported only once.

        Raises:
            NotWritableError: no permission to write, or the disk is full; earlier checkpoints are kept.
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
            Warnings about folders that were kept because they do not have the ID of this run. Each folder is
            reported only once.
        """
        self.load_run_id()
        kept = self.prune(())
        self.clean()
        with suppress(OSError):  # missing, or not empty
            self.folder.rmdir()
        return kept
