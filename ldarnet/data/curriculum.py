"""Window-length curriculum: the window length of a step is a pure function of the stages and the step.

Every step has the same number of bases, so a step with shorter windows has proportionally more windows. Each length has
its own stream of windows. If the window length at step ``s`` is L, then step ``s`` reads the same windows as step ``s``
of a run in which every window has length L. Therefore, an epoch ends at about the same step in every stream, and a run
needs only the step number to resume its data.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from ldarnet.data.loader import Batch, BoundarySource, training_steps
from ldarnet.data.masking import Masking
from ldarnet.data.next_base import NextBase
from ldarnet.data.windows import Windows


@dataclass(frozen=True, slots=True)
class CurriculumStage:
    """Consecutive steps with windows of one length.

    Attributes:
        first: first step.
        stop: one past the last step.
        length: bases in a window.
        batch_factor: full window length divided by ``length``. The number of windows in a micro-batch is multiplied by
            this factor.
    """

    first: int
    stop: int
    length: int
    batch_factor: int


def curriculum_stages(shorter: Sequence[tuple[int, float]], length: int, total: int) -> tuple[CurriculumStage, ...]:
    """Divide the steps of a run into consecutive stages; stages without a step are dropped.

    Args:
        shorter: (window length, fraction of all steps) of each stage except the last. Lengths must divide ``length``.
        length: full window length, used in the last stage.
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
    """Return the stage that contains a step, or the last stage for a step beyond the end of the run."""
    return next((stage for stage in stages if stage.first <= step < stage.stop), stages[-1])


def curriculum_steps(
    stages: Sequence[CurriculumStage],
    windows: Mapping[int, Windows],
    masking: Masking | NextBase,
    *,
    micro_batch: int,
    first_step: int,
    last_step: int,
    accumulation: int,
    rank: int,
    world: int,
    workers: int = 0,
    boundaries: BoundarySource | None = None,
) -> Iterator[list[Batch]]:
    """Yield the micro-batches of one rank, one list per optimizer step, across the stages of a curriculum.

    Args:
        stages: the stages of the run.
        windows: window length -> stream of windows.
        masking: how targets are selected.
        micro_batch: windows in one forward pass of one rank at full window length; a stage with shorter windows has
            `CurriculumStage.batch_factor` times as many.
        first_step: first step to yield; when resuming, the number of completed steps.
        last_step: one past the last step to yield.
        accumulation: micro-batches per step.
        rank: rank of this process, from 0.
        world: number of ranks.
        workers: DataLoader worker processes.
        boundaries: source of chunk boundaries.

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
                boundaries=boundaries,
            )
