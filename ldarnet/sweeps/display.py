"""What a sweep shows while it runs: a live table on a terminal, plain lines elsewhere."""

import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ldarnet.console import Printer, format_duration
from ldarnet.sweeps.plan import SweepPlan, TaskPlan
from ldarnet.sweeps.settings import Setting


class SweepProgress(Printer):
    """Shows how far the plan has come.

    Args:
        plan: of the sweep.
        metric: of validation, by name.
        console: to print on.
    """

    def __init__(self, plan: SweepPlan, metric: str, console: Console) -> None:
        self._plan, self._metric = plan, metric
        self._begin = time.monotonic()
        self._begun: dict[tuple[str, str, int], float] = {}
        self._done = 0
        live = Live(get_renderable=self._table, console=console, refresh_per_second=1, transient=True)
        super().__init__(console, live)

    def begun(self, task: TaskPlan, setting: Setting, fold: int) -> None:
        """A trial runs now."""
        self._begun[task.task, setting.name, fold] = time.monotonic()

    def ended(self, task: TaskPlan, setting: Setting, fold: int, outcome: str) -> None:
        """A trial has ended."""
        self._done += 1
        seconds = time.monotonic() - self._begun.get((task.task, setting.name, fold), time.monotonic())
        done = self._plan.count("finished") + self._plan.count("stopped") + self._plan.count("failed")
        left = self._plan.running + self._plan.most_left()
        self.info(
            f"[{done}/{done + left}] {task.task} {setting.name} fold {fold}: {outcome} in {format_duration(seconds)}  "
            f"best {self._best(task)}  ETA {self._eta()}"
        )

    def _table(self) -> Group:
        table = Table("task", "done", "running", "failed", "to do", f"best validation {self._metric} so far")
        for task in self._plan.tasks.values():
            states = [cell.state for _, _, cell in task.cells()]
            done = states.count("finished") + states.count("stopped")
            numbers = (done, states.count("running"), states.count("failed"), task.most_left())
            table.add_row(task.task, *map(str, numbers), Text(self._best(task)))
        return Group(table, Text(f"{format_duration(time.monotonic() - self._begin)} so far, ETA {self._eta()}"))

    def _best(self, task: TaskPlan) -> str:
        """The best mean of a setting over the folds that it has finished, most folds first."""
        means = []
        for one in task.settings:
            scores = [score for fold in task.search_folds if (score := task.fold(one, fold).score) is not None]
            if scores and not task.is_out(one):
                means.append((len(scores), sum(scores) / len(scores), one.name))
        if not means:
            return "-"
        folds, mean, name = max(means)
        return f"{mean:.4f} ({name}, {folds} of {len(task.search_folds)} folds)"

    def _eta(self) -> str:
        if not self._done:
            return "-"
        left = self._plan.most_left() + self._plan.running / 2
        return format_duration((time.monotonic() - self._begin) / self._done * left)
