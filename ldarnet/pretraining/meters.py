"""How fast a run goes, and how much of what its devices can do it uses."""

import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ldarnet.model import LDARNetConfig
from ldarnet.model.cost import cost
from ldarnet.runtime.distributed import World

STEP_PHASES = ("data", "agree", "forward", "backward", "update")
"""What the time of steps goes to, as the loop names it; saving and validation are told apart."""


@dataclass(frozen=True)
class Utilization:
    """Model operations per second and device, from what is measured while a run goes.

    Attributes:
        config: of the model.
        length: bases of a window.
        devices: number of them.
        peak: operations per second that a device can do, if known.
    """

    config: LDARNetConfig
    length: int
    devices: int
    peak: float | None

    def metrics(self, bases_per_second: float, bases_per_chunk: Sequence[float]) -> dict[str, float]:
        """`flops_per_second` of a device and, where its peak is known, `mfu`, the share of the peak that they are.

        What is computed twice to save memory does not count; see :mod:`ldarnet.model.cost`.
        """
        flops = cost(self.config, self.length, bases_per_chunk).training_flops * bases_per_second / self.devices
        return {"flops_per_second": flops, **({"mfu": flops / self.peak} if self.peak else {})}


class SpeedMeter:
    """Bases per second between log lines, not counting validation and saving.

    Args:
        seconds: time the run has taken before this start.
    """

    def __init__(self, seconds: float) -> None:
        self._begin = time.perf_counter() - seconds
        self._lap = time.perf_counter()
        self._bases = 0

    def add(self, bases: int) -> None:
        """Count the bases of a step."""
        self._bases += bases

    def lap(self) -> float:
        """Bases per second since the last call."""
        now = time.perf_counter()
        speed = self._bases / max(now - self._lap, 1e-9)
        self._lap, self._bases = now, 0
        return speed

    @property
    def seconds(self) -> float:
        """Time the run has taken over all its starts, everything included."""
        return time.perf_counter() - self._begin

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the block's time in the speed."""
        begin = time.perf_counter()
        yield
        self._lap += time.perf_counter() - begin


def host_metrics(seconds: Mapping[str, float], world: World) -> dict[str, Any]:
    """What the processes of all ranks spent since they were asked last; every rank must call it.

    Args:
        seconds: by phase, of this rank.
        world: the ranks.

    Returns:
        `phase_share`, the share of the time of steps that each of STEP_PHASES took, over all ranks; `data_wait`, the
        share of the rank that waited longest for its data; `memory`, peak bytes of the rank with most: of the process
        since its start (`host`), and of its tensors on the device since it was asked last (`device`).
    """
    on_gpu = world.device.type == "cuda"
    unit = 1 if sys.platform == "darwin" else 1024
    memory = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit]
    if on_gpu:
        memory.append(torch.cuda.max_memory_allocated(world.device))
        torch.cuda.reset_peak_memory_stats(world.device)
    rows = world.gather_numbers([*(seconds.get(name, 0.0) for name in STEP_PHASES), *memory])
    phases, memories = rows[:, : len(STEP_PHASES)], rows[:, len(STEP_PHASES) :].amax(0).tolist()
    whole = phases.sum().clamp(min=1e-9)
    return {
        "phase_share": dict(zip(STEP_PHASES, (phases.sum(0) / whole).tolist(), strict=True)),
        "data_wait": (phases[:, 0] / phases.sum(1).clamp(min=1e-9)).max().item(),
        "memory": dict(zip(("host", "device")[: len(memories)], memories, strict=True)),
    }
