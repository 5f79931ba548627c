"""Count and log checkpoints that could not be written or copied."""

from typing import Any

from ldarnet.pretraining.callbacks.base import Callback, RunContext, register


@register(order=30)
class CheckpointFailures(Callback):
    """Adds `checkpoint_failures` to training lines: failures since launch, if any."""

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        self._count = 0

    def on_checkpoint_failed(self, reason: str) -> None:
        """Count and log the failure."""
        self._count += 1
        self.context.warn(reason)

    def on_step_logged(self, line: dict[str, Any]) -> None:
        """Add the count."""
        if self._count:
            line["checkpoint_failures"] = self._count
