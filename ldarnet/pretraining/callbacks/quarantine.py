"""Count the training windows that could not be read, and print each distinct reason once per launch."""

from typing import Any

from ldarnet.data import QuarantinedWindow
from ldarnet.pretraining.callbacks.base import Callback, RunContext, register


@register(order=10)
class QuarantineCounter(Callback):
    """Adds `quarantined`, the number of unreadable windows since launch, to training lines if it is not 0."""

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        self._count = 0
        self._reasons: set[str] = set()

    def on_quarantine(self, windows: list[QuarantinedWindow]) -> None:
        """Count the windows, and print each reason that has not been printed before."""
        self._count += len(windows)
        for window in windows:
            if window.reason not in self._reasons:
                self._reasons.add(window.reason)
                self.context.console.info(f"skipping unreadable windows; the first is {window.window}: {window.reason}")

    def on_step_logged(self, line: dict[str, Any]) -> None:
        """Add `quarantined` to the line."""
        if self._count:
            line["quarantined"] = self._count
