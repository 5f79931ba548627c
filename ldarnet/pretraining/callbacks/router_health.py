"""Whether the routers do what they should: a judgement of the lines of metrics alone.

It is the same for a run under way and for one read from its file, and a continued run goes on where it was judged last.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ldarnet.io import run_files
from ldarnet.pretraining.callbacks.base import Callback, RunContext, register
from ldarnet.runtime.metrics_file import read_metrics

COLLAPSED = 0.95
"""Share of positions that start a chunk from which on nothing is chunked any more."""
NO_BOUNDARIES = 8.0
"""Times the wanted positions a chunk, from which on there are hardly any chunks."""
DRIFT = 1.5
"""Times more or fewer positions a chunk than wanted, from which on compression has left its target."""
GRID = 0.6
"""Periodicity from which on boundaries are a grid; repeats in genomes stay well below."""
PATIENCE = (0.05, 20, 500)
"""Share of all steps, at least and at most so many, that a condition must last before it is told."""
QUIET = (0.1, 1000)
"""Share of all steps, and at most so many, at the beginning of a run in which nothing is told: routers try extremes."""
GUIDE = "launch/README.md, Router health"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a router: its name, the stage (0 the outermost), and a sentence."""

    kind: str
    stage: int
    text: str


def findings(line: dict[str, Any], target: float) -> Iterator[Finding]:
    """What is wrong in one line of training metrics, given the positions a chunk that the ratio loss aims at."""
    outer = 1.0
    for stage, bases in enumerate(line["bases_per_chunk"]):
        positions, outer = bases / outer, bases
        found = f"{positions:.3g} positions a chunk, wanted {target:.3g}"
        grid, period = line["periodicity"][stage], line["period"][stage]
        if positions < 1 / COLLAPSED:
            yield Finding("all_boundaries", stage, f"nearly every position starts a chunk ({found})")
        elif positions > NO_BOUNDARIES * target:
            yield Finding("no_boundaries", stage, f"hardly any position starts a chunk ({found})")
        elif not 1 / DRIFT < positions / target < DRIFT:
            yield Finding("drift", stage, f"compression has left its target ({found})")
        if grid > GRID:
            yield Finding("grid", stage, f"boundaries repeat every {period} positions (periodicity {grid:.2f})")


class RouterHealth:
    """Judges one training line after the other.

    Args:
        total_steps: of the run.
        target: completed steps -> positions a chunk that the ratio loss aims at.

    Attributes:
        warnings: what is wrong now, for long enough to be told.
    """

    def __init__(self, total_steps: int, target: Callable[[int], float]) -> None:
        share, least, most = PATIENCE
        self._patience = min(max(share * total_steps, least), most)
        self._quiet = min(QUIET[0] * total_steps, QUIET[1])
        self._target = target
        self._since: dict[tuple[str, int], int] = {}
        self.warnings: dict[tuple[str, int], Finding] = {}

    def look(self, line: dict[str, Any]) -> list[str]:
        """Judge the next line; returns what there is to tell: warnings that begin here, and those that end."""
        step = line["step"]
        present = {(found.kind, found.stage): found for found in findings(line, self._target(step - 1))}
        self._since = {key: self._since.get(key, step) for key in present}
        lasting = {
            key: found
            for key, found in present.items()
            if step - self._since[key] >= self._patience and step > self._quiet
        }
        begun = [
            f"stage {found.stage}: {found.text} since step {self._since[key]}; see {GUIDE}"
            for key, found in lasting.items()
            if key not in self.warnings
        ]
        ended = [
            f"stage {stage}: the warning of {kind} is over at step {step}"
            for kind, stage in self.warnings
            if (kind, stage) not in lasting
        ]
        self.warnings = lasting
        return begun + ended


@register(order=40)
class RouterHealthMonitor(Callback):
    """Adds `warnings` to training lines, and logs each when it begins and ends; rank 0 decides."""

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        self._health = RouterHealth(context.inputs.total_steps, context.inputs.schedule.target_ratio)

    def on_run_start(self) -> None:
        """Replay the lines of earlier launches."""
        self.context.world.on_main(self._replay)

    def _replay(self) -> None:
        for line in read_metrics(self.context.config.run.dir / run_files.METRICS):
            if line["split"] == "train" and line["step"] <= self.context.resumed.step:
                self._health.look(line)

    def on_step_logged(self, line: dict[str, Any]) -> None:
        """Judge the line."""
        if self.context.world.is_main and line["bases_per_chunk"]:
            for text in self._health.look(line):
                self.context.warn(text)
        line["warnings"] = {f"{kind}/stage{stage}": it.text for (kind, stage), it in self._health.warnings.items()}
