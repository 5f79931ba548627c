"""Traces of single steps by torch's profiler: by configuration on rank 0, by SIGUSR2 on any rank.

A trace opens in ui.perfetto.dev or chrome://tracing. Profiled steps are slower; their result is the same.
"""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Self

import torch

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path
from ldarnet.runtime.rank_log import LOG

STEPS_ON_REQUEST = 3


class Profiler:
    """Traces the steps that are asked for.

    Args:
        run_dir: of the run; traces go to its folder `profiles`.
        rank: this rank.
        planned: first and last step to trace, counted from 1; None for none.
        say: prints one line for the user, if this rank may; it stands in the rank's log in any case.
    """

    def __init__(self, run_dir: Path, rank: int, planned: tuple[int, int] | None, say: Callable[[str], None]) -> None:
        self._folder, self._rank, self._say = run_dir / run_files.PROFILES, rank, say
        self._planned = planned
        self._requested = False
        self._last = self._completed = 0
        self._trace: torch.profiler.profile | None = None
        self._handler: signal.Handlers | Callable[[int, FrameType | None], object] | int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGUSR2, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if self._trace is not None:
            self._write(self._completed + 1)  # the step that the run ended in
        if self._handler is not None:
            signal.signal(signal.SIGUSR2, self._handler)

    def _request(self, *_: object) -> None:
        self._requested = True

    def between(self, completed: int) -> None:
        """To be called between two steps: ends the trace that is complete, and begins the one that is due."""
        self._completed = completed
        if self._trace is not None and completed >= self._last:
            self._write(completed)
        if self._trace is None:
            if self._planned is not None and self._planned[0] <= completed + 1 <= self._planned[1]:
                self._begin(self._planned[1])
            elif self._requested:
                self._begin(completed + STEPS_ON_REQUEST)

    def _begin(self, last: int) -> None:
        self._requested, self._last = False, last
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._trace = torch.profiler.profile(activities=activities)
        self._trace.start()

    def _write(self, step: int) -> None:
        """Write the trace; a full disk is said and does not stop training."""
        assert self._trace is not None
        trace, self._trace = self._trace, None
        trace.stop()
        path = self._folder / f"rank-{self._rank:05d}-step-{step:08d}.json.gz"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as partial:
                packed = partial.with_name(f"{partial.name}.gz")  # by which torch knows that it is to pack it
                trace.export_chrome_trace(str(packed))
                packed.replace(partial)
        except (UserError, OSError, RuntimeError) as error:
            self._tell(f"the profile of step {step} could not be written: {error}")
        else:
            self._tell(f"profiled to step {step}: {path}; open it in ui.perfetto.dev")

    def _tell(self, text: str) -> None:
        LOG.info(text)
        self._say(text)
