"""Progress of a running sweep: a live table on a terminal, plain lines otherwise."""

import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ldarnet.console import Printer, format_duration
from ldarnet.sweeps.plan import SweepPlan, TaskPlan
from ldarnet.sweeps.settings import Setting


class SweepProgress(Printer):
    """Shows finished and running trials, the best setting of each task and the remaining time.

    Args:
        plan: plan of the sweep.
        metric: display name of the validation metric.
        console: console to print on.
    """

    def __init__(self, plan: SweepPlan, metric: str, console: Console) -> None:
        self._plan, self._metric = plan, metric
        self._start = time.monotonic()
        self._started: dict[tuple[str, str, int], float] = {}
        self._done = 0
        live = Live(get_renderable=self._table, console=console, refresh_per_second=1, transient=True)
        super().__init__(console, live)

    def trial_started(self, task: TaskPlan, setting: Setting, fold: int) -> None:
        """Record the start of a trial."""
        self._started[task.task, setting.name, fold] = time.monotonic()

    def trial_ended(self, task: TaskPlan, setting: Setting, fold: int, outcome: str) -> None:
        """Print a line for a trial that has ended."""
        self._done += 1
        seconds = time.monotonic() - self._started.get((task.task, setting.name, fold), time.monotonic())
        done = self._plan.count("finished") + self._plan.count("stopped") + self._plan.count("failed")
        remaining = self._plan.running + self._plan.max_remaining()
        self.info(
            f"[{done}/{done + remaining}] {task.task} {setting.name} fold {fold}: {outcome} in "
            f"{format_duration(seconds)}  best {self._best(task)}  ETA {self._eta()}"
        )

    def _table(self) -> Group:
        table = Table("task", "done", "running", "failed", "remaining", f"best validation {self._metric}")
        for task in self._plan.tasks.values():
            states = [status.state for _, _, status in task.all_folds()]
            done = states.count("finished") + states.count("stopped")
            counts = (done, states.count("running"), states.count("failed"), task.max_remaining())
            table.add_row(task.task, *map(str, counts), self._best(task))
        return Group(table, Text(f"{format_duration(time.monotonic() - self._start)} elapsed, ETA {self._eta()}"))

    def _best(self, task: TaskPlan) -> str:
        """Describe the best setting so far.

        Settings are ranked by the number of finished search folds, then by the mean score on these folds.
        """
        means = []
        for setting in task.settings:
            scores = [score for fold in task.search_folds if (score := task.fold(setting, fold).score) is not None]
            if scores and not task.is_excluded(setting):
                means.append((len(scores), sum(scores) / len(scores), setting.name))
        if not means:
            return "-"
        folds, mean, name = max(means)
        return f"{mean:.4f} ({name}, {folds} of {len(task.search_folds)} folds)"

    def _eta(self) -> str:
        if not self._done:
            return "-"
        remaining = self._plan.max_remaining() + self._plan.running / 2
        return format_duration((time.monotonic() - self._start) / self._done * remaining)
