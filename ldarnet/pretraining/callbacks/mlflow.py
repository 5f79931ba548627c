"""Log metrics to MLflow."""

from typing import Any

from ldarnet.pretraining.callbacks.base import Callback, RunContext, register
from ldarnet.runtime.checkpoint import TrainingState
from ldarnet.runtime.tracking import Tracker


@register(order=70)
class MlflowLogger(Callback):
    """Logs all metrics on rank 0, and ends the MLflow run as FINISHED, KILLED (resumable) or FAILED."""

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        self._tracker: Tracker | None = None
        self._status = "FAILED"

    def on_run_start(self) -> None:
        """Connect to the tracking server, in the background."""
        if self.context.world.is_main:
            self._tracker = Tracker(self.context.config, self.context.console.info, self.context.inputs.kernels)

    def on_step_logged(self, line: dict[str, Any]) -> None:
        """Log a training line."""
        if self._tracker is not None:
            self._tracker.log(line)

    on_validation = on_step_logged

    def on_run_end(self, state: TrainingState, received: str | None) -> None:
        """Choose the final status of the MLflow run."""
        self._status = "FINISHED" if state.step == state.total_steps else "KILLED"

    def close(self) -> None:
        """Send all queued items and end the MLflow run."""
        if self._tracker is not None:
            self._tracker.close(self._status)
