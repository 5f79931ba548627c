"""What changes in the course of a run, as pure functions of the step: the learning rate and the wanted compression."""

import math
from dataclasses import dataclass

from ldarnet.config.schema import ScheduleSection

PUBLISHED_FINAL = 0.05
"""Share of the base rate at which the published decay ends."""


@dataclass(frozen=True)
class Schedule:
    """The course of a run.

    Attributes:
        config: its shape.
        total: optimiser steps of the whole run.
        target: bases per chunk that the ratio loss aims at in the end.
    """

    config: ScheduleSection
    total: int
    target: float

    def factor(self, step: int) -> float:
        """The factor on every base learning rate in step number `step`, from 0."""
        shape = self.config
        return learning_rate_factor(
            step, self.total, warmup=shape.warmup, decay=shape.decay, decay_shape=shape.decay_shape
        )

    def target_ratio(self, step: int) -> float:
        """The bases per chunk that the ratio loss aims at in step number `step`, from 0."""
        shape = self.config
        return target_ratio(step, self.total, start=shape.ratio_start, warmup=shape.ratio_warmup, target=self.target)


def learning_rate_factor(step: int, total: int, *, warmup: float, decay: float, decay_shape: str) -> float:
    """The factor on every group's base learning rate for the update that follows `step` completed steps.

    Args:
        step: completed optimiser steps, 0 <= step < total.
        total: optimiser steps of the whole run.
        warmup: share of the steps in which the factor rises linearly to 1.
        decay: share of the steps at the end in which it falls.
        decay_shape: with t = 1..T steps into the decay, `published` is 1 - s (1 - 1/sqrt(t)), s set so that it ends
            at 0.05, and `sqrt` is 1 - sqrt(t/T), which ends at 0.
    """
    assert 0 <= step < total
    warmup_steps, decay_steps = round(warmup * total), round(decay * total)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    t = step + 1 - (total - decay_steps)
    if t < 1:
        return 1.0
    if decay_shape == "sqrt":
        return 1.0 - math.sqrt(t / decay_steps)
    assert decay_shape == "published"
    if decay_steps == 1:
        return PUBLISHED_FINAL
    scale = (1.0 - PUBLISHED_FINAL) / (1.0 - 1.0 / math.sqrt(decay_steps))
    return 1.0 - scale * (1.0 - 1.0 / math.sqrt(t))


def target_ratio(step: int, total: int, *, start: float | None, warmup: float, target: float) -> float:
    """The bases per chunk that the ratio loss aims at in the step that follows `step` completed ones.

    Args:
        step: completed optimiser steps, 0 <= step < total.
        total: optimiser steps of the whole run.
        start: the first value; None to aim at the target from the first step.
        warmup: share of the steps in which it goes from start to target, by equal factors.
        target: the value after them.
    """
    steps = round(warmup * total)
    if start is None or step >= steps:
        return target
    return start * (target / start) ** (step / steps)
