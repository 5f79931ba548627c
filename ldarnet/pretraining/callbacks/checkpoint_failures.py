"""Count and log checkpoints that could not be written or copied."""

from typing import Any

from ldarnet.pretraining.callbacks.base import Callback, RunContext, register


@register(order=30)
class CheckpointFailures(Callback):
    """Adds `checkpoint_failures`, the number of failures since launch, to training lines if it is not 0."""

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        self._count = 0

    def on_checkpoint_failed(self, reason: str) -> None:
        """Count and log the failure."""
        self._count += 1
        self.context.warn(reason)

    def on_step_logged(self, line: dict[str, Any]) -> None:
        """Add `checkpoint_failures` to the line."""
        if self._count:
            line["checkpoint_failures"] = self._count
