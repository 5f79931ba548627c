"""Window-length curriculum: the window length of a step is a pure function of the stages and the step.

Every step has the same number of bases, so a step with shorter windows has proportionally more windows. Each length has
its own window order, in which step ``s`` begins after ``s`` steps' worth of bases. An epoch therefore ends at the same
step for every length, and the step remains the only data state of a run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from ldarnet.data.loader import Batch, training_steps
from ldarnet.data.masking import Masking
from ldarnet.data.windows import Windows


@dataclass(frozen=True, slots=True)
class CurriculumStage:
    """Consecutive steps with windows of one length.

    Attributes:
        first: first step.
        stop: step after the last.
        length: bases in a window.
        batch_factor: windows of this length per window of full length.
    """

    first: int
    stop: int
    length: int
    batch_factor: int


def curriculum_stages(shorter: Sequence[tuple[int, float]], length: int, total: int) -> tuple[CurriculumStage, ...]:
    """The consecutive stages of a run; stages without a step are dropped.

    Args:
        shorter: (window length, share of all steps) of each stage but the last; window lengths divide ``length``.
        length: window length of the last stage, the full length.
        total: number of steps in the run.
    """
    ends = [*accumulate(share for _, share in shorter), 1.0]
    stages, first = [], 0
    for bases, end in zip([*(bases for bases, _ in shorter), length], ends, strict=True):
        stop = round(end * total)
        if first < stop:
            stages.append(CurriculumStage(first, stop, bases, length // bases))
        first = stop
    return tuple(stages)


def stage_at(stages: Sequence[CurriculumStage], step: int) -> CurriculumStage:
    """Return the stage that contains a step; beyond the end of the run, the last stage."""
    return next((stage for stage in stages if stage.first <= step < stage.stop), stages[-1])


def curriculum_steps(
    stages: Sequence[CurriculumStage],
    windows: Mapping[int, Windows],
    masking: Masking,
    *,
    micro_batch: int,
    first_step: int,
    last_step: int,
    accumulation: int,
    rank: int,
    world: int,
    workers: int = 0,
) -> Iterator[list[Batch]]:
    """Yield the steps of one rank, as `training_steps` does, across the stages of a curriculum.

    Args:
        stages: the stages of the run.
        windows: the stream of each window length.
        masking: how to mask the windows.
        micro_batch: full-length windows in one forward pass of one rank; a stage has `batch_factor` times as many.
        first_step: first step to yield; a resumed run passes the step it stopped at.
        last_step: step after the last one to yield.
        accumulation: micro-batches per step.
        rank: this rank.
        world: number of ranks.
        workers: DataLoader worker processes.

    Raises:
        TransientError, UserError: as for `training_steps`.
    """
    for stage in stages:
        first, stop = max(stage.first, first_step), min(stage.stop, last_step)
        if first < stop:
            yield from training_steps(
                windows[stage.length],
                masking,
                micro_batch=micro_batch * stage.batch_factor,
                accumulation=accumulation,
                rank=rank,
                world=world,
                first_step=first,
                last_step=stop,
                workers=workers,
            )
