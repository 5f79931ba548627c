"""One launch of a pretraining run: build data, model and engine, start or resume training, return the result."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator, with_config
from typing_extensions import TypedDict

from ldarnet.config import RunConfig
from ldarnet.io import run_files
from ldarnet.io.records import Count, read_records
from ldarnet.pretraining.async_checkpoint import AsyncCheckpointer, copy_missing
from ldarnet.pretraining.callbacks.base import RunContext, running_callbacks
from ldarnet.pretraining.describe import describe
from ldarnet.pretraining.loop import loop
from ldarnet.pretraining.progress import PretrainProgress
from ldarnet.pretraining.setup import build_engine, find_resume_point, fit_chunking, initial_state, prepare_inputs
from ldarnet.runtime.checkpoint import CheckpointStore
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import autocast, slow_bf16
from ldarnet.runtime.ranks import process_group, supervised
from ldarnet.runtime.run_dir import lock_run_dir
from ldarnet.runtime.signals import StopRequest
from ldarnet.runtime.timers import StepTimers


@dataclass(frozen=True)
class TrainResult:
    """Result of one launch.

    Attributes:
        run_dir: run folder.
        steps: completed optimizer steps, over all launches.
        total_steps: steps of the whole run.
        resumed_from: number of completed steps at the start of this launch; 0 in a new run.
        best_checkpoint: complete checkpoint with the lowest validation loss; without validation, the newest
            checkpoint. None if there is no checkpoint.
        validation: validation metrics of the best checkpoint; empty without validation.
        seconds: wall time over all launches, in seconds.
        signal: name of the signal that stopped this launch before the last step, if any.
    """

    run_dir: Path
    steps: int
    total_steps: int
    resumed_from: int
    best_checkpoint: Path | None
    validation: dict[str, Any]
    seconds: float
    signal: str | None

    @property
    def finished(self) -> bool:
        """Whether all steps are completed."""
        return self.steps >= self.total_steps


def train(config: RunConfig) -> TrainResult:
    """Start or resume the run described by `config`; every rank must call this function.

    Raises:
        UserError: configuration, data and run folder do not match, or training cannot proceed; raised on all ranks.
    """
    with process_group(config.training.timeout_minutes) as world:
        return train_on(world, config)


def train_on(world: World, config: RunConfig) -> TrainResult:
    """Run `train` in a process group that is already initialized."""
    with (
        world.on_main(lambda: lock_run_dir(config.run.dir)) or nullcontext(),
        supervised(world, config.run.dir, config.training.timeout_minutes) as (timers, request),
    ):
        return _train(world, config, timers, request)


def _train(world: World, config: RunConfig, timers: StepTimers, request: StopRequest) -> TrainResult:
    inputs = prepare_inputs(config, world)
    store = CheckpointStore(config.run.dir, config.checkpoint.keep)
    found = find_resume_point(config, inputs, store, world)
    state = found.state or initial_state(config, inputs)
    if state.fingerprint != inputs.shards.fingerprint:
        # With data.accept_other, the run resumes on another data set; reset what is not comparable between data sets.
        state = state.advanced(
            fingerprint=inputs.shards.fingerprint,
            total_steps=inputs.total_steps,
            best_step=None,
            best_loss=None,
            guard=state.guard | {"losses": []},
        )
    display = PretrainProgress(world.is_main, inputs.total_steps, state.step)
    for text in found.notices:
        display.warn(text)
    if state.step < state.total_steps:
        if found.remote_error is not None:
            raise found.remote_error
        for text in describe(config, inputs, world):
            display.info(text)
        if warning := slow_bf16(autocast(config.training.precision, world), world):
            display.warn(warning)
        if found.checkpoint is None:
            fit_chunking(inputs, world)
        else:
            display.info(f"resuming from step {state.step}: {found.checkpoint}")
        run = RunContext(
            config=config,
            inputs=inputs,
            engine=build_engine(config, inputs, found.checkpoint, state, world),
            world=world,
            timers=timers,
            console=display,
            resumed=state,
        )
        with display, running_callbacks(run) as callbacks:

            def report_failure(reason: str) -> None:
                for callback in callbacks:
                    callback.on_checkpoint_failed(reason)

            with AsyncCheckpointer(config, store, world, state, report_failure, run.warn) as checkpointer:
                state = loop(run, checkpointer, callbacks, request)
    elif found.remote_error is not None:
        display.warn(f"checkpoints not copied to checkpoint.remote: {found.remote_error}")
    else:
        world.on_main(lambda: copy_missing(config, store, display.warn))
    return TrainResult(
        run_dir=config.run.dir,
        steps=state.step,
        total_steps=inputs.total_steps,
        resumed_from=found.state.step if found.state else 0,
        best_checkpoint=store.best(),
        validation=best_validation(store, config.run.dir / run_files.METRICS),
        seconds=state.seconds,
        signal=request.received,
    )


class _TrainLine(BaseModel):
    step: Count
    split: Literal["train"]


@with_config(ConfigDict(extra="allow"))
class _MaskMetrics(TypedDict):
    """Metrics of a validation line for one mask, with at least the value that the summary prints."""

    mask_loss: float


class _ValidLine(BaseModel):
    """A validation line of metrics.jsonl, with at least the values that the summary prints."""

    model_config = ConfigDict(extra="allow")

    step: Count
    split: Literal["valid"]
    mlm_loss: float | None = None
    mask_loss: float | None = None
    bits_per_masked_base: float | None = None
    next_base_loss: float | None = None
    bits_per_base: float | None = None
    composition_loss: float
    accuracy: float | None = None
    token_accuracy: float | None = None
    next_base_accuracy: float | None = None
    next_token_accuracy: float | None = None
    bases_per_chunk: list[float]
    masks: dict[str, _MaskMetrics] = {}

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.next_base_loss is None) == (self.mlm_loss is None or self.mask_loss is None):
            raise ValueError("needs mlm_loss and mask_loss, or next_base_loss")
        return self


_Line: Any = Annotated[_TrainLine | _ValidLine, Field(discriminator="split")]


def best_validation(store: CheckpointStore, metrics: Path) -> dict[str, Any]:
    """Read the validation line of the best checkpoint from metrics.jsonl (`metrics`); empty if there is none.

    Raises:
        UserError: metrics.jsonl cannot be read, or a line is damaged.
    """
    best = store.best()
    if best is None or not metrics.is_file():
        return {}
    lines = (line for _, line in read_records(metrics, _Line, hint="delete this line"))
    found = next((line for line in lines if line.split == "valid" and store.path(line.step) == best), None)
    return found.model_dump() if found is not None else {}
