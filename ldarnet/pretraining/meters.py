"""Throughput, MFU and resource usage of a run."""

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
"""Timers that make up a training step; saving and validation are measured separately."""


@dataclass(frozen=True)
class Utilization:
    """Computes FLOP/s and MFU per device from the measured throughput and bases per chunk.

    Attributes:
        config: model configuration, from which FLOPs are estimated.
        length: bases per window.
        devices: number of devices, one per rank.
        peak: peak FLOP/s of one device; None if unknown.
        bases_per_token: mean bases per token.
    """

    config: LDARNetConfig
    length: int
    devices: int
    peak: float | None
    bases_per_token: float = 1.0

    def metrics(self, bases_per_second: float, bases_per_chunk: Sequence[float]) -> dict[str, float]:
        """Compute `flops_per_second` of one device and, if the peak is known, `mfu`, the fraction of the peak.

        FLOPs exclude recomputation by activation checkpointing; see :mod:`ldarnet.model.cost`.
        """
        spent = cost(self.config, self.length, bases_per_chunk, bases_per_token=self.bases_per_token)
        flops = spent.training_flops * bases_per_second / self.devices
        return {"flops_per_second": flops, **({"mfu": flops / self.peak} if self.peak else {})}


class SpeedMeter:
    """Measures bases per second between logged steps, excluding validation and checkpoints.

    Args:
        seconds: wall time of all earlier launches of the run, in seconds.
    """

    def __init__(self, seconds: float) -> None:
        self._start = time.perf_counter() - seconds
        self._lap = time.perf_counter()
        self._bases = 0

    def add(self, bases: int) -> None:
        """Count the bases of a step."""
        self._bases += bases

    def lap(self) -> float:
        """Return bases per second since the last call."""
        now = time.perf_counter()
        speed = self._bases / max(now - self._lap, 1e-9)
        self._lap, self._bases = now, 0
        return speed

    @property
    def seconds(self) -> float:
        """Wall time in seconds over all launches of the run, including validation and checkpoints."""
        return time.perf_counter() - self._start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent in the block from throughput."""
        start = time.perf_counter()
        yield
        self._lap += time.perf_counter() - start


def host_metrics(seconds: Mapping[str, float], world: World) -> dict[str, Any]:
    """Gather step time and peak memory from all ranks; every rank must call this function.

    Args:
        seconds: timer name -> seconds measured on this rank since the last call.
        world: the ranks.

    Returns:
        `phase_share`: for each of STEP_PHASES, its time divided by the step time, both summed over ranks.
        `data_wait`: fraction of step time spent waiting for data, maximum over ranks.
        `memory`: peak memory in bytes, maximum over ranks. `host` is the peak of the process since it started. On GPUs,
        `device` is the peak of allocated tensors since the last call.
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
