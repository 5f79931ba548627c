"""The training loop, from top to bottom."""

from collections.abc import Iterator

from ldarnet.config import RunConfig
from ldarnet.data import Batch, curriculum_steps, part_at
from ldarnet.errors import UserError
from ldarnet.pretraining.async_checkpoint import Saver
from ldarnet.pretraining.boundary_sample import boundary_sample
from ldarnet.pretraining.recorder import Recorder
from ldarnet.pretraining.setup import Inputs
from ldarnet.pretraining.validation import validate
from ldarnet.runtime.checkpoint import TrainingState
from ldarnet.runtime.distributed import World, user_error
from ldarnet.runtime.engine import Engine, micro_batch
from ldarnet.runtime.losses import StepTotals, micro_step_loss
from ldarnet.runtime.router_metrics import RouterCounts
from ldarnet.runtime.signals import StopRequest
from ldarnet.runtime.timers import Phases


def loop(
    config: RunConfig,
    inputs: Inputs,
    engine: Engine,
    saver: Saver,
    state: TrainingState,
    recorder: Recorder,
    request: StopRequest,
    world: World,
) -> TrainingState:
    """Take steps until the last one, `stop_after` or a signal, and save; return where the run stands."""
    training, total = config.training, inputs.total_steps
    last = min(total, max(training.stop_after or total, state.step))
    saved, phases = state.step, recorder.phases
    steps = _data(config, inputs, world, state.step, last)
    while state.step < last:
        recorder.profiler.between(state.step)
        if state.step == part_at(inputs.parts, state.step).first:
            engine.guard.forget()
        with phases.phase(state.step, "data"):
            batches, error = _next(steps)
        with phases.phase(state.step, "agree"):
            scored, stop = _agree(batches, error, recorder, request, world)
        if stop:
            request.agree(world)
            break
        looked_at = recorder.due(state.step + 1)
        target = inputs.schedule.target_ratio(state.step)
        totals = _accumulate(engine, batches, scored, phases, state.step, world, target=target, looked_at=looked_at)
        if looked_at:
            engine.gradients.watch()
        with phases.phase(state.step, "update"):
            loss = world.sum_on_device(totals.nll) / max(scored, 1)
            rates, norm = engine.update(inputs.schedule.factor(state.step), loss)
        state = state.advanced(step=state.step + 1, position=state.position + training.batch)
        engine.guard.end(state.step, norm, batches, totals.windows)
        recorder.count()
        if looked_at:
            length = part_at(inputs.parts, state.step - 1).length
            with phases.phase(state.step - 1, "record"):
                recorder.train(state, totals, scored, rates, norm, length)
        if config.validation.windows and (state.step % config.validation.every == 0 or state.step == total):
            state = _validated(config, inputs, engine, saver, state, recorder, world)
        if state.step % config.checkpoint.every == 0 or state.step in (last, state.best_step):
            state, saved = recorder.save(saver, engine, state), state.step
    if saved < state.step:
        state = recorder.save(saver, engine, state)
    with phases.phase(state.step - 1, "save"):
        saver.finish()
    recorder.finish(state, request)
    return state


def _validated(
    config: RunConfig,
    inputs: Inputs,
    engine: Engine,
    saver: Saver,
    state: TrainingState,
    recorder: Recorder,
    world: World,
) -> TrainingState:
    """Validate; the state says whether this step is the best now."""
    with recorder.phases.phase(state.step - 1, "validate"), recorder.meter.paused():
        metrics = validate(engine, inputs.shards, config, world, inputs.regions)
        sample = boundary_sample(engine, inputs.shards, config, world)
        state = saver.settle(state)
    recorder.validation(state, metrics, sample)
    complete = "quarantined" not in metrics  # other windows, another question
    if complete and (state.best_loss is None or metrics["mlm_loss"] < state.best_loss):
        return state.advanced(best_step=state.step, best_loss=metrics["mlm_loss"])
    return state


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
    )


def _next(steps: Iterator[list[Batch]]) -> tuple[list[Batch], UserError | None]:
    """The next step's micro-batches, and why they cannot be read."""
    try:
        return next(steps), None
    except (UserError, OSError) as caught:
        return [], user_error(caught)


def _agree(
    batches: list[Batch], error: UserError | None, recorder: Recorder, request: StopRequest, world: World
) -> tuple[int, bool]:
    """The number of scored bases in the global batch, and whether any rank must stop.

    Windows that any rank could not read, and that quarantine leaves unscored, are reported.

    Raises:
        UserError: a rank cannot read its windows; on all ranks.
    """
    own = sum(int(batch.scored.sum()) for batch in batches)
    lost = [lost for batch in batches for lost in batch.quarantined]
    scored, failures, stops, missing = world.sum_on_host(
        own, error is not None, request.received is not None, len(lost)
    )
    if failures:
        world.raise_together(error)
    if missing:
        recorder.quarantined(world.gather(lost))
    return scored, stops > 0


def _accumulate(
    engine: Engine,
    batches: list[Batch],
    scored: int,
    phases: Phases,
    step: int,
    world: World,
    *,
    target: float,
    looked_at: bool,
) -> StepTotals:
    """Forward and backward passes of one step; what its routers do is counted if it is looked at.

    Args:
        engine: with the model.
        batches: this rank's, one a micro-step.
        scored: bases of the global batch.
        phases: of this rank.
        step: its number, from 0.
        world: the ranks.
        target: bases per chunk that the ratio loss aims at.
        looked_at: whether it is.
    """
    parts = []
    for batch in batches:
        with phases.phase(step, "forward"):
            input_ids = batch.input_ids.to(world.device, non_blocking=True)
            labels = batch.labels.to(world.device, non_blocking=True)
            output = engine.forward(input_ids)
            loss, part = micro_step_loss(
                output,
                labels,
                scored=scored,
                accumulation=len(batches),
                target=target,
                weight=engine.model_config.ratio_weight,
                world=world,
            )
            if looked_at and output.boundaries:
                part.router = RouterCounts.of(output.boundaries, input_ids)
            del output
        with phases.phase(step, "backward"):
            engine.backward(loss)
        parts.append(part)
    return StepTotals.of(parts)
