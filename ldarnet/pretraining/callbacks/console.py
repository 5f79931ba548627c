"""Print progress on rank 0; if the run stops early, print how to resume it."""

from typing import Any

from ldarnet.io.early_stop import stop_reason
from ldarnet.pretraining.callbacks.base import Callback, register
from ldarnet.runtime.checkpoint import TrainingState
from ldarnet.runtime.rank_log import LOG


@register(order=80)
class ConsoleLogger(Callback):
    """Prints training and validation lines. If the run stops early, prints how to resume it."""

    def on_step_logged(self, line: dict[str, Any]) -> None:
        """Print a training line."""
        self.context.console.step(line)

    def on_validation(self, line: dict[str, Any]) -> None:
        """Print a validation line."""
        self.context.console.validation(line)

    def on_run_end(self, state: TrainingState, received: str | None) -> None:
        """Print where an unfinished run stopped and how to resume it."""
        reason = stop_reason(received) if received else "stopped"
        LOG.info("%s after step %d of %d", reason, state.step, state.total_steps)
        if state.step == 0:
            self.context.console.info(f"{reason} before the first step; nothing to save")
        elif state.step < state.total_steps:
            change = "" if received else " without training.stop_after"
            self.context.console.info(
                f"{reason} after step {state.step} of {state.total_steps}, saved in {self.context.config.run.dir}; run "
                f"the same command again{change} to resume"
            )
