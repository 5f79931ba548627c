"""Write metrics.jsonl; also the base class of callbacks that write other JSON Lines files."""

from typing import Any, ClassVar

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.pretraining.callbacks.base import WRITERS, Callback, RunContext, register
from ldarnet.runtime.checkpoint import TrainingState
from ldarnet.runtime.distributed import user_error
from ldarnet.runtime.metrics_file import MetricsFile


class JsonLinesWriter(Callback):
    """Base class of callbacks that write a JSON Lines file in the run folder, on rank 0.

    A line that cannot be written is kept in memory and written together with the next line.

    Attributes:
        file_name: name of the file, set by subclasses.
    """

    file_name: ClassVar[str]

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        self._file: MetricsFile | None = None
        self._warned: set[str] = set()

    def on_run_start(self) -> None:
        """Open the file; delete the lines of steps that will run again."""
        run = self.context
        self._file = run.world.on_main(
            lambda: MetricsFile(run.config.run.dir, run.resumed.step, self.file_name, run.warn)
        )

    def write(self, line: dict[str, Any]) -> None:
        """Append a line; if this fails, warn, but only once per launch for each distinct reason."""
        if self._file is None:
            return
        try:
            self._file.write(line)
        except (UserError, OSError) as error:
            reason = str(user_error(error)).partition(";")[0]
            if reason not in self._warned:
                self._warned.add(reason)
                self.context.warn(f"{reason}; keeping unwritten lines in memory and retrying with the next line")

    def on_run_end(self, state: TrainingState, received: str | None) -> None:
        """Write the lines that are still in memory after failed writes.

        Raises:
            UserError: the lines still cannot be written; raised on all ranks.
        """
        self.context.world.on_main(lambda: self._file and self._file.flush())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


@register(order=WRITERS)
class MetricsWriter(JsonLinesWriter):
    """Writes metrics.jsonl."""

    file_name = run_files.METRICS

    def on_step_logged(self, line: dict[str, Any]) -> None:
        """Write a training line."""
        self.write(line)

    def on_validation(self, line: dict[str, Any]) -> None:
        """Write a validation line."""
        self.write(line)
