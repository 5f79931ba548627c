"""Profile selected steps with torch.profiler.

Rank 0 profiles the steps in `tracking.profile`. Any rank that receives SIGUSR2 profiles its next steps. Open a trace in
ui.perfetto.dev or chrome://tracing. Profiling slows down steps, but does not change their results.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType

import torch

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path
from ldarnet.pretraining.callbacks.base import Callback, RunContext, register
from ldarnet.runtime.rank_log import LOG

STEPS_ON_REQUEST = 3
"""Number of steps to profile after SIGUSR2."""


@register(order=100)
class StepProfiler(Callback):
    """Traces the steps in `tracking.profile` on rank 0, and the steps after SIGUSR2 on the rank that receives it."""

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        self._folder, self._rank = context.config.run.dir / run_files.PROFILES, context.world.rank
        self._planned = context.config.tracking.profile if context.world.is_main else None
        self._requested = False
        self._last = self._completed = 0
        self._trace: torch.profiler.profile | None = None
        self._handler: signal.Handlers | Callable[[int, FrameType | None], object] | int | None = None

    def on_run_start(self) -> None:
        """Install the handler for SIGUSR2."""
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGUSR2, self._request)

    def close(self) -> None:
        """Write an unfinished trace and restore the signal handler."""
        if self._trace is not None:
            self._write(self._completed + 1)  # the trace ends in a step that did not complete
        if self._handler is not None:
            signal.signal(signal.SIGUSR2, self._handler)

    def _request(self, *_: object) -> None:
        self._requested = True

    def before_step(self, step: int) -> None:
        """Write the trace if it is complete; start a trace if one is configured or requested for this step."""
        self._completed = step
        if self._trace is not None and step >= self._last:
            self._write(step)
        if self._trace is None:
            if self._planned is not None and self._planned[0] <= step + 1 <= self._planned[1]:
                self._start(self._planned[1])
            elif self._requested:
                self._start(step + STEPS_ON_REQUEST)

    def _start(self, last: int) -> None:
        self._requested, self._last = False, last
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._trace = torch.profiler.profile(activities=activities)
        self._trace.start()

    def _write(self, step: int) -> None:
        """Write the trace; a failure is logged and training continues."""
        assert self._trace is not None
        trace, self._trace = self._trace, None
        trace.stop()
        path = self._folder / f"rank-{self._rank:05d}-step-{step:08d}.json.gz"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as partial:
                compressed = partial.with_name(f"{partial.name}.gz")  # torch only compresses files with this suffix
                trace.export_chrome_trace(str(compressed))
                compressed.replace(partial)
        except (UserError, OSError, RuntimeError) as error:
            self._log(f"profile of step {step} not written: {error}")
        else:
            self._log(f"wrote profile up to step {step}: {path}; open it in ui.perfetto.dev")

    def _log(self, text: str) -> None:
        LOG.info(text)
        self.context.console.info(text)
