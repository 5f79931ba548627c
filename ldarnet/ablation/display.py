"""Progress of a running ablation: a live table on a terminal, plain lines otherwise."""

import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ldarnet.ablation.plan import KINDS, AblationPlan, AblationRun
from ldarnet.console import Printer, format_duration


class AblationProgress(Printer):
    """Shows finished and running runs of each arm.

    Args:
        plan: plan of the ablation.
        console: console to print on.
    """

    def __init__(self, plan: AblationPlan, console: Console) -> None:
        self._plan, self._start = plan, time.monotonic()
        self._started: dict[AblationRun, float] = {}
        live = Live(get_renderable=self._table, console=console, refresh_per_second=1, transient=True)
        super().__init__(console, live)

    def run_started(self, run: AblationRun) -> None:
        """Record the start of a run."""
        self._started[run] = time.monotonic()

    def run_ended(self, run: AblationRun, outcome: str) -> None:
        """Print a line for a run that has ended."""
        seconds = time.monotonic() - self._started.get(run, time.monotonic())
        done = self._plan.count("finished") + self._plan.count("failed")
        total = done + self._plan.running + self._plan.open
        self.info(f"[{done}/{total}] {run}: {outcome} in {format_duration(seconds)}")

    def _table(self) -> Group:
        table = Table("arm", *KINDS, "running", "failed", "learning rate")
        for arm in self._plan.arms.values():
            states = [status.state for status in arm.status.values()]
            cells = []
            for kind in KINDS:
                of_kind = [status.state for _, status in arm.of_kind(kind)]
                cells.append(f"{of_kind.count('finished')}/{len(of_kind)}" if of_kind else "-")
            counts = (str(states.count("running")), str(states.count("failed")))
            table.add_row(arm.name, *cells, *counts, "-" if arm.lr is None else f"{arm.lr:g}")
        return Group(table, Text(f"{format_duration(time.monotonic() - self._start)} elapsed"))
