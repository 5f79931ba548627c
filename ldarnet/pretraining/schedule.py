"""Learning-rate and target-ratio schedules, as pure functions of the step."""

import math
from dataclasses import dataclass

from ldarnet.config.optimization import ScheduleSection

PUBLISHED_FINAL = 0.05
"""Learning rate factor at the end of the `published` decay."""


@dataclass(frozen=True)
class Schedule:
    """Learning-rate and target-ratio schedules of a run.

    Attributes:
        config: section `schedule` of the run configuration.
        total: optimizer steps of the run.
        target: final target of the ratio loss, in positions per chunk; the same for every router of the model.
    """

    config: ScheduleSection
    total: int
    target: float

    def factor(self, step: int) -> float:
        """Learning rate factor for all parameter groups in step `step`, counted from 0."""
        config = self.config
        return learning_rate_factor(
            step, self.total, warmup=config.warmup, decay=config.decay, decay_shape=config.decay_shape
        )

    def target_ratio(self, step: int) -> float:
        """Target of the ratio loss, in positions per chunk, in step `step`, counted from 0."""
        config = self.config
        return target_ratio(step, self.total, start=config.ratio_start, warmup=config.ratio_warmup, target=self.target)


def learning_rate_factor(step: int, total: int, *, warmup: float, decay: float, decay_shape: str) -> float:
    """Warm-up/stable/decay (WSD) learning rate factor for the update after `step` completed steps.

    Args:
        step: completed optimizer steps, 0 <= step < total.
        total: optimizer steps of the run.
        warmup: fraction of the steps in which the factor rises linearly to 1.
        decay: fraction of the steps, at the end of the run, in which the factor falls.
        decay_shape: formula for the factor in step t = 1..T of a decay over T steps. `published`: 1 - s (1 - 1/sqrt(t))
            with s chosen such that the factor ends at 0.05. `sqrt`: 1 - sqrt(t/T), which ends at 0.
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
    """Target of the ratio loss, in positions per chunk, for the step after `step` completed steps.

    Args:
        step: completed optimizer steps, 0 <= step < total.
        total: optimizer steps of the run.
        start: initial target; None to use `target` from the first step.
        warmup: fraction of the steps in which the target moves geometrically from `start` to `target`.
        target: final target.
    """
    steps = round(warmup * total)
    if start is None or step >= steps:
        return target
    return start * (target / start) ** (step / steps)
