"""The pretraining loop."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ldarnet.config import RunConfig
from ldarnet.data import Batch, curriculum_steps, stage_at
from ldarnet.errors import UserError
from ldarnet.ops import to_device
from ldarnet.pretraining.async_checkpoint import AsyncCheckpointer
from ldarnet.pretraining.callbacks.base import Callback, RunContext
from ldarnet.pretraining.chunk_capacity import ChunkCapacity
from ldarnet.pretraining.setup import Inputs
from ldarnet.pretraining.step_totals import LoggedValues, StepTotals, pretraining_loss
from ldarnet.pretraining.train_metrics import TrainMetrics
from ldarnet.pretraining.validation import validate
from ldarnet.runtime.checkpoint import TrainingState
from ldarnet.runtime.distributed import World, user_error
from ldarnet.runtime.engine import Engine, micro_batch
from ldarnet.runtime.guard import stop_after
from ldarnet.runtime.router_metrics import RouterCounts
from ldarnet.runtime.signals import StopRequest
from ldarnet.runtime.timers import StepTimers


def loop(
    run: RunContext, checkpointer: AsyncCheckpointer, callbacks: Sequence[Callback], request: StopRequest
) -> TrainingState:
    """Train until the last step, `training.stop_after` or a stop signal, then save; return the final state."""
    config, inputs, engine, world, timers = run.config, run.inputs, run.engine, run.world, run.timers
    training, total = config.training, inputs.total_steps
    state, saved = run.resumed, run.resumed.step
    last = min(total, max(training.stop_after or total, state.step))
    metrics, capacity = TrainMetrics(run), _capacity(run)
    steps = _data(config, inputs, world, state.step, last)
    while state.step < last:
        for callback in callbacks:
            callback.before_step(state.step)
        if capacity is not None:
            capacity.begin_step(state.step)
        if state.step == stage_at(inputs.parts, state.step).first:
            engine.guard.reset_losses()
        with timers.phase(state.step, "data"):
            batches, error = _next(steps)
        with timers.phase(state.step, "agree"):
            scored, stop = _agree(batches, error, callbacks, request, world)
        if stop:
            request.agree(world)
            break
        logged = (state.step + 1) % training.log_every == 0 or state.step + 1 in (1, total)
        target = inputs.schedule.target_ratio(state.step)
        totals = _accumulate(engine, batches, scored, timers, state.step, world, target=target, logged=logged)
        if logged:
            engine.gradients.watch_next_update()
        with timers.phase(state.step, "update"):
            loss = world.sum_on_device(totals.nll) / max(scored, 1)
            lr, norm = engine.update(inputs.schedule.factor(state.step), loss)
        if capacity is not None:
            capacity.end_step(totals.stages, loss)
        state = state.advanced(step=state.step + 1, position=state.position + training.batch)
        engine.guard.record(state.step, norm, batches, totals.windows)
        metrics.count_step()
        if logged:
            with timers.phase(state.step - 1, "record"):
                values = LoggedValues.of(totals, norm, engine, world)
                _report_skipped(run, callbacks, values.guard)
                line = metrics.line(state, values, scored, lr)
                for callback in callbacks:
                    callback.on_step_logged(line)
        if config.validation.windows and (state.step % config.validation.every == 0 or state.step == total):
            with timers.phase(state.step - 1, "validate"), metrics.meter.paused():
                state = _validate(run, checkpointer, state, callbacks)
        if state.step % config.checkpoint.every == 0 or state.step in (last, state.best_step):
            state, saved = _save(run, checkpointer, state, callbacks, metrics, capacity), state.step
    if saved < state.step:
        state = _save(run, checkpointer, state, callbacks, metrics, capacity)
    with timers.phase(state.step - 1, "save"):
        checkpointer.finish()
    for callback in callbacks:
        callback.on_run_end(state, request.received)
    return state


def _capacity(run: RunContext) -> ChunkCapacity | None:
    factor = run.config.training.chunk_capacity_factor
    shape = run.engine.model_config
    if factor is None or shape.num_stages == 1 or shape.expected_ratio is None:
        return None
    return ChunkCapacity(run.engine.model, factor, run.resumed.chunks, run.warn)


def _report_skipped(run: RunContext, callbacks: Sequence[Callback], numbers: Tensor | None = None) -> None:
    """Call `on_skipped_steps` with the steps that `Guard.take_skipped` returns for `numbers`.

    Raises:
        UserError: too many consecutive steps were skipped; raised on all ranks.
    """
    if skipped := run.engine.guard.take_skipped(numbers):
        for callback in callbacks:
            callback.on_skipped_steps(skipped)
        stop_after(skipped, run.config.guard.stop_after)


def _validate(
    run: RunContext, checkpointer: AsyncCheckpointer, state: TrainingState, callbacks: Sequence[Callback]
) -> TrainingState:
    """Validate; return the state, with `best_step` and `best_loss` updated if this step is the best so far.

    Raises:
        UserError: the validation loss is not finite; raised on all ranks.
    """
    inputs = run.inputs
    metrics = validate(run.engine, inputs.shards, run.config, run.world, inputs.regions, inputs.boundaries)
    state = checkpointer.settle(state)
    loss = metrics[run.inputs.model.loss_name]
    if not math.isfinite(loss):
        raise UserError(
            f"the validation loss after step {state.step} is not finite; train in another run.dir with a lower "
            "optimizer.lr (the checkpoints of this run are unchanged)"
        )
    line: dict[str, Any] = {"step": state.step, "split": "valid", **metrics}
    for callback in callbacks:
        callback.on_validation(line)
    complete = "quarantined" not in metrics  # losses over different windows are not comparable
    if complete and (state.best_loss is None or loss < state.best_loss):
        return state.advanced(best_step=state.step, best_loss=loss)
    return state


def _save(
    run: RunContext,
    checkpointer: AsyncCheckpointer,
    state: TrainingState,
    callbacks: Sequence[Callback],
    metrics: TrainMetrics,
    capacity: ChunkCapacity | None,
) -> TrainingState:
    """Report skipped steps, then queue a checkpoint for writing; return the training state in the checkpoint.

    Raises:
        UserError: too many consecutive steps were skipped; raised on all ranks.
    """
    _report_skipped(run, callbacks)
    chunks = None if capacity is None else capacity.state_dict()
    state = state.advanced(seconds=metrics.meter.seconds, guard=run.engine.guard.state_dict(), chunks=chunks)
    with run.timers.phase(state.step - 1, "save"), metrics.meter.paused():
        return checkpointer.save(run.engine, state)


def _data(config: RunConfig, inputs: Inputs, world: World, first: int, last: int) -> Iterator[list[Batch]]:
    return curriculum_steps(
        inputs.parts,
        inputs.by_length,
        inputs.masking,
        micro_batch=micro_batch(config, world.size),
        accumulation=config.training.accumulation,
        rank=world.rank,
        world=world.size,
        first_step=first,
        last_step=last,
        workers=config.data.workers,
        boundaries=inputs.boundaries,
    )


def _next(steps: Iterator[list[Batch]]) -> tuple[list[Batch], UserError | None]:
    """Read the micro-batches of the next step; return (micro-batches, None), or ([], error) if reading failed."""
    try:
        return next(steps), None
    except (UserError, OSError) as caught:
        return [], user_error(caught)


def _agree(
    batches: list[Batch], error: UserError | None, callbacks: Sequence[Callback], request: StopRequest, world: World
) -> tuple[int, bool]:
    """Share target counts, errors and stop requests among all ranks; call `on_quarantine` for unreadable windows.

    Returns:
        Number of target positions in the global batch; whether to stop.

    Raises:
        UserError: a rank cannot read its windows; raised on all ranks.
    """
    targets = sum(int(batch.target_counts.sum()) for batch in batches)
    lost = [lost for batch in batches for lost in batch.quarantined]
    scored, failures, stops, missing = world.sum_on_host(
        targets, error is not None, request.received is not None, len(lost)
    )
    if failures:
        world.raise_together(error)
    if missing:
        windows = world.gather(lost)
        for callback in callbacks:
            callback.on_quarantine(windows)
    return scored, stops > 0


def _accumulate(
    engine: Engine,
    batches: list[Batch],
    scored: int,
    timers: StepTimers,
    step: int,
    world: World,
    *,
    target: float,
    logged: bool,
) -> StepTotals:
    """Run the forward and backward passes of one optimizer step.

    Args:
        engine: the DeepSpeed engine.
        batches: local micro-batches, one per micro-step.
        scored: number of target positions in the global batch.
        timers: timers of this rank.
        step: step number, counted from 0.
        world: the ranks.
        target: target of the ratio loss, in positions per chunk.
        logged: whether the step is logged; if so, router statistics are computed.
    """
    parts = []
    for batch in batches:
        with timers.phase(step, "forward"):
            input_ids = to_device(batch.input_ids, world.device, torch.int64)
            labels = to_device(batch.labels, world.device, torch.int64)
            output = engine.forward(input_ids, boundaries=batch.boundaries)
            loss, part = pretraining_loss(
                output,
                labels,
                scored=scored,
                accumulation=len(batches),
                target=target,
                config=engine.model_config,
                world=world,
            )
            if logged and output.boundaries:
                part.router = RouterCounts.of(output.boundaries, input_ids)
            del output
        with timers.phase(step, "backward"):
            engine.backward(loss)
        parts.append(part)
    return StepTotals.of(parts)
