"""Log the steps that the guard skipped, with the windows of highest loss."""

from typing import Any

from ldarnet.pretraining.callbacks.base import Callback, RunContext, register
from ldarnet.runtime.guard import SkippedStep, describe_skips


@register(order=20)
class SkippedSteps(Callback):
    """Adds `skipped`, the number of steps skipped so far in all launches, to training lines if it is not 0."""

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        self._count = context.resumed.step - context.resumed.guard["accepted"]

    def on_skipped_steps(self, skipped: list[SkippedStep]) -> None:
        """Count and log the steps."""
        self._count += len(skipped)
        for text in describe_skips(skipped, self.context.inputs.by_length, self.context.world):
            self.context.warn(text)

    def on_step_logged(self, line: dict[str, Any]) -> None:
        """Add `skipped` to the line."""
        if self._count:
            line["skipped"] = self._count
