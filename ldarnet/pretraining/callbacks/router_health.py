"""Router health: warn about collapsed, drifting or periodic boundaries.

Warnings depend only on the training lines in metrics.jsonl, so a resumed run restores them by replaying these lines.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import read_errors
from ldarnet.io.records import Count, parse_record
from ldarnet.pretraining.callbacks.base import Callback, RunContext, register

COLLAPSED = 0.95
"""Boundary rate above which chunking has collapsed."""
NO_BOUNDARIES = 8.0
"""Positions per chunk, as a multiple of the target, above which chunking has collapsed to very few boundaries."""
DRIFT = 1.5
"""Factor by which positions per chunk must exceed or fall below the target to count as drift."""
GRID = 0.6
"""Periodicity above which boundaries form a grid; genomic repeats stay well below."""
PATIENCE = (0.05, 20, 500)
"""Number of steps for which a finding must persist to become a warning: fraction of all steps, minimum, maximum."""
QUIET = (0.1, 1000)
"""Number of initial steps without warnings, because routers are unstable at first: fraction of all steps, maximum."""
MAX_REPLAYED = 2 * (PATIENCE[2] + QUIET[1])
"""Maximum number of lines to replay. With at most two lines per step, older lines cannot change the warnings."""
GUIDE = "launch/README.md, Router health"


class RouterLine(TypedDict):
    """Keys of metrics.jsonl that are read to restore warnings. Validation lines lack `periodicity` and `period`."""

    step: Count
    split: str
    bases_per_chunk: list[Annotated[float, Field(gt=0)]]
    periodicity: NotRequired[list[float]]
    period: NotRequired[list[int]]


@dataclass(frozen=True)
class Finding:
    """A problem with one router: kind, stage (0 is the outermost), description."""

    kind: str
    stage: int
    text: str


def findings(line: Mapping[str, Any], target: float) -> Iterator[Finding]:
    """Find router problems in one training line; `target` is the target of the ratio loss, in positions per chunk."""
    outer = 1.0
    for stage, bases in enumerate(line["bases_per_chunk"]):
        positions, outer = bases / outer, bases
        found = f"{positions:.3g} positions per chunk, target {target:.3g}"
        grid, period = line["periodicity"][stage], line["period"][stage]
        if positions < 1 / COLLAPSED:
            yield Finding("all_boundaries", stage, f"nearly every position starts a chunk ({found})")
        elif positions > NO_BOUNDARIES * target:
            yield Finding("no_boundaries", stage, f"hardly any position starts a chunk ({found})")
        elif not 1 / DRIFT < positions / target < DRIFT:
            yield Finding("drift", stage, f"compression has drifted from its target ({found})")
        if grid > GRID:
            yield Finding("grid", stage, f"boundaries repeat every {period} positions (periodicity {grid:.2f})")


class RouterHealth:
    """Tracks findings over training lines, and warns about findings that persist.

    Args:
        total_steps: steps of the run.
        target: function that maps the number of completed steps to the target of the ratio loss, in positions per
            chunk.

    Attributes:
        warnings: (kind, stage) -> finding, for active warnings.
    """

    def __init__(self, total_steps: int, target: Callable[[int], float]) -> None:
        fraction, minimum, maximum = PATIENCE
        self._patience = min(max(fraction * total_steps, minimum), maximum)
        self._quiet = min(QUIET[0] * total_steps, QUIET[1])
        self._target = target
        self._since: dict[tuple[str, int], int] = {}
        self.warnings: dict[tuple[str, int], Finding] = {}

    def update(self, line: Mapping[str, Any]) -> list[str]:
        """Process the next training line; return a message for each warning that starts or ends at this line."""
        step = line["step"]
        present = {(found.kind, found.stage): found for found in findings(line, self._target(step - 1))}
        self._since = {key: self._since.get(key, step) for key in present}
        lasting = {
            key: found
            for key, found in present.items()
            if step - self._since[key] >= self._patience and step > self._quiet
        }
        started = [
            f"stage {found.stage}: {found.text} since step {self._since[key]}; see {GUIDE}"
            for key, found in lasting.items()
            if key not in self.warnings
        ]
        ended = [
            f"stage {stage}: warning {kind} ended at step {step}"
            for kind, stage in self.warnings
            if (kind, stage) not in lasting
        ]
        self.warnings = lasting
        return started + ended


@register(order=40)
class RouterHealthMonitor(Callback):
    """Adds `warnings` to training lines, and logs when a warning starts or ends. Warnings are computed on rank 0.

    Chunking methods without a trained router, such as `grid`, get no warnings.
    """

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        self._health = RouterHealth(context.inputs.total_steps, context.inputs.schedule.target_ratio)
        self._monitored = context.inputs.model.config.chunking_method.has_router
        self._replayed = False

    def before_step(self, step: int) -> None:
        """Before the first step of this launch, restore the warnings from the training lines in metrics.jsonl.

        `on_run_start` would be too early: metrics.jsonl may still contain damaged lines and lines of steps that will
        run again.
        """
        if not self._replayed:
            self._replayed = True
            self.context.world.on_main(self._replay)

    def _replay(self) -> None:
        path = self.context.config.run.dir / run_files.METRICS
        if not self._monitored or not self.context.resumed.step or not path.is_file():
            return
        with read_errors(path), path.open("rb") as file:
            lines = deque(enumerate(file, start=1), maxlen=MAX_REPLAYED)
        for number, content in lines:
            where, hint = f"{path}: line {number}", "delete this line"
            line = parse_record(content, RouterLine, where=where, hint=hint)
            if line["split"] != "train":
                continue
            if not len(line["bases_per_chunk"]) == len(line.get("periodicity", ())) == len(line.get("period", ())):
                raise UserError(
                    f"{where}: the lists bases_per_chunk, periodicity and period have different numbers of "
                    f"entries; {hint}"
                )
            self._health.update(line)

    def on_step_logged(self, line: dict[str, Any]) -> None:
        """Update the warnings and add them to the line."""
        if self._monitored and self.context.world.is_main and line["bases_per_chunk"]:
            for text in self._health.update(line):
                self.context.warn(text)
        warnings = self._health.warnings.items()
        line["warnings"] = {f"{kind}/stage{stage}": finding.text for (kind, stage), finding in warnings}
