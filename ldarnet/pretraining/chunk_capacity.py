"""Switch a run between a counted and a static number of chunks.

Early in training, the number of chunks is far from its target, so the chunks are counted. After `SETTLED_STEPS` steps
near the target, the number becomes static. If a rank has too many chunks in a step, its loss is NaN: the guard skips
the step, and chunks are counted again.

The host reads the counts one step late, so that it does not wait for the current step. This makes the steps with a
static number the same on all ranks, in every run with the same configuration, and after a resume.
"""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from ldarnet.model import LDARNetLanguageModel
from ldarnet.runtime.checkpoint import ChunkState
from ldarnet.runtime.host_buffers import HostBuffers

SETTLED_STEPS = 100
"""Number of consecutive steps near the target after which the number of chunks becomes static."""
MIN_FILL = 0.5
"""Number of chunks relative to the target below which a step is not near the target: padding would dominate."""
STEPS_LATE = 1
"""Number of completed steps whose counts the host does not read yet when a step begins."""


class ChunkCapacity:
    """Decides before each step whether the number of chunks is static, identically on all ranks.

    Args:
        model: the model being trained; it must have a router.
        factor: `training.chunk_capacity_factor`.
        state: return value of `state_dict` to resume from; None in a new run.
        warn: function that logs a warning.
    """

    def __init__(
        self, model: LDARNetLanguageModel, factor: float, state: ChunkState | None, warn: Callable[[str], None]
    ) -> None:
        self._model, self._factor, self._warn = model, factor, warn
        self._target = model.config.expected_ratio
        self._settled = 0 if state is None else state["settled"]
        self._pending: deque[tuple[Tensor, HostBuffers]] = deque()
        for row in [] if state is None else state["pending"]:
            self._pending.append((torch.tensor(row, dtype=torch.float64), HostBuffers(torch.device("cpu"))))

    @property
    def static(self) -> bool:
        """Whether the number of chunks is static in the current step."""
        return self._settled >= SETTLED_STEPS

    def begin_step(self, step: int) -> None:
        """Set the capacity of the model for the next step; `step` is the number of completed steps."""
        while len(self._pending) > STEPS_LATE:
            *chunks, bases, finite = _values(*self._pending.popleft())
            fills = [number / bases * self._target**depth for depth, number in enumerate(chunks, 1)]
            if finite and max(fills) <= self._factor and min(fills) >= MIN_FILL:
                self._settled = min(self._settled + 1, SETTLED_STEPS)
                continue
            if self.static:
                listed = ", ".join(f"{fill:.3g}" for fill in fills)
                fits = "" if finite else ", and the chunks of a rank may not fit"
                self._warn(
                    f"step {step - len(self._pending)}: {listed} times the target number of chunks{fits} "
                    f"(training.chunk_capacity_factor={self._factor:g}); counting chunks for {SETTLED_STEPS} steps"
                )
            self._settled = 0
        self._model.set_chunk_capacity(self._factor if self.static else None)

    def end_step(self, stages: Tensor, loss: Tensor) -> None:
        """Start to copy the counts of a step to the host.

        Args:
            stages: see `StepTotals.stages`.
            loss: global loss of the step, a scalar on the device.
        """
        buffers = HostBuffers(stages.device)
        *_, boundaries, positions = stages.unbind(1)
        row = torch.cat([boundaries, positions[:1], loss.isfinite().view(1)])
        self._pending.append((buffers.copy(iter([("row", row)]), keep=True)["row"], buffers))

    def state_dict(self) -> ChunkState:
        """Return the state to save in a checkpoint.

        Contains the number of settled steps, and for each step that is not read yet its number of chunks in each stage,
        its number of bases, and 1 if its loss is finite, otherwise 0.
        """
        return {"settled": self._settled, "pending": [_values(*entry) for entry in self._pending]}


def _values(row: Tensor, buffers: HostBuffers) -> list[float]:
    buffers.wait()
    return row.tolist()
