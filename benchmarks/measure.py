"""Measure training steps on real DNA: step times, memory, FLOPs and kernel times.

A :class:`Cell` describes a measurement and :func:`measure` runs it.
"""

from __future__ import annotations

import re
import resource
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baselines import CONFIGURATIONS, arrange, calibrate_router
from benchmarks.worker import report_partial
from ldarnet.alphabet import IGNORE_INDEX, MASK, N, encode
from ldarnet.model import LDARNetForMaskedLM
from ldarnet.model.cost import cost
from sharding.genomes import BUNDLED_FASTA

Result = dict[str, Any]
"""Result of a measurement, as written to JSON."""

FAILURE = "failure"
"""Key of the error message in the result of a failed measurement."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SEED = 0
LEARNING_RATE = 1e-4
CALIBRATION_BASES = 8192
"""Number of bases on which the router is calibrated, over all windows."""
CUSTOM_FUNCTION = re.compile(r"_[A-Z]\w*|MambaChunkScanCombinedFn\w*|FlashAttn\w*")
"""Pattern of the names of custom autograd functions; names of backward passes end in ``Backward``."""


@dataclass(frozen=True)
class Cell:
    """Description of one measurement.

    Attributes:
        kind: a key of :data:`KINDS`.
        model: a key of :data:`benchmarks.baselines.CONFIGURATIONS`.
        arrangement: implementation of the model, see :func:`benchmarks.baselines.arrange`.
        length: bases per window.
        windows: windows per batch.
        device: ``cpu`` or ``cuda``.
        dtype: dtype of matrix products; autocast is used unless it is float32.
        threads: CPU threads; 0 for PyTorch's default.
        ops: backend overrides by operation; other operations select their backend automatically.
        checkpointed: stages with activation checkpointing.
        steps: maximum number of timed steps.
        seconds: time limit in seconds, after which no step starts.
    """

    kind: str = "training"
    model: str = "tiny"
    arrangement: str = "ours"
    length: int = 64
    windows: int = 4
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 0
    ops: dict[str, str] = field(default_factory=dict, hash=False)
    checkpointed: tuple[int, ...] = ()
    steps: int = 3
    seconds: float = 20.0


def measure(cell: Cell) -> Result:
    """Run the measurement that a cell describes."""
    _set_up(cell)
    return KINDS[cell.kind](cell)


def _set_up(cell: Cell) -> None:
    if cell.threads:
        torch.set_num_threads(cell.threads)
    torch.set_flush_denormal(True)
    transformers.utils.logging.set_verbosity_error()  # silence the warning about missing kernels


def bundled_genome() -> np.ndarray:
    """Read the bases of the bundled genome, one uint8 each.

    Raises:
        ImportError: a package that reads it is missing.
    """
    from ldarnet.genome.fasta import read_fasta

    return encode(b"".join(piece for piece in read_fasta(BUNDLED_FASTA) if isinstance(piece, bytes)))


def real_windows(windows: int, length: int) -> tuple[Tensor, str]:
    """Read windows spread evenly over the bundled genome; return ids (windows, length), and text that names the source.

    If a package needed to read the genome is missing, the bases are random.
    """
    try:
        genome = bundled_genome()
    except ImportError as missing:
        generator = torch.Generator().manual_seed(SEED)
        return torch.randint(0, N, (windows, length), generator=generator), f"random bases ({missing.name} is missing)"
    starts = [number * (len(genome) - length) // windows for number in range(windows)]
    ids = torch.stack([torch.from_numpy(genome[start : start + length].astype(np.int64)) for start in starts])
    return ids, "baker's yeast, windows spread evenly over the bundled chromosomes"


def masked(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Mask ids as in pretraining; return input ids and labels, (windows, length) each.

    15% of the positions are targets. Of these, 80% become [MASK], 10% become a random base, and 10% are unchanged.
    """
    generator = torch.Generator().manual_seed(SEED)
    target, fate = torch.rand(ids.shape, generator=generator) < 0.15, torch.rand(ids.shape, generator=generator)
    other = torch.randint(0, N, ids.shape, generator=generator)
    shown = torch.where(fate < 0.8, MASK, torch.where(fate < 0.9, other, ids))
    return torch.where(target, shown, ids), torch.where(target, ids, IGNORE_INDEX)


class Workload:
    """Model, optimizer and batch of a cell.

    Attributes:
        weights: copy of the initial weights, on the host.
        source: description of where the bases come from, for the report.
    """

    def __init__(self, cell: Cell) -> None:
        """Build the workload for a cell; the router is calibrated to about four bases per chunk."""
        self.cell, self.device = cell, torch.device(cell.device)
        ids, self.source = real_windows(cell.windows, cell.length)
        self.input_ids, self.labels = (x.to(self.device) for x in masked(ids))
        self.real = torch.ones(ids.shape, dtype=torch.bool)  # on the host, as in training
        torch.manual_seed(SEED)
        config = CONFIGURATIONS[cell.model]()
        config.ops.update(cell.ops)
        with self.device:
            self.model = LDARNetForMaskedLM(config)
        with self.autocast():
            calibrate_router(self.model, self.input_ids[:, : max(CALIBRATION_BASES // cell.windows, 64)])
        self.weights = {name: value.to("cpu", copy=True) for name, value in self.model.state_dict().items()}
        arrange(self.model, cell.arrangement)
        self.model.set_activation_checkpointing(cell.checkpointed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, fused=True)

    @property
    def bases(self) -> int:
        """Bases per batch."""
        return self.input_ids.numel()

    def autocast(self) -> torch.autocast:
        """Autocast context with the dtype of the cell."""
        return torch.autocast(self.device.type, DTYPES[self.cell.dtype], enabled=self.cell.dtype != "float32")

    def output(self) -> Any:
        """Run the model on the batch; the output includes the pretraining loss."""
        with self.autocast():
            return self.model(self.input_ids, self.real, self.labels)

    def gradients(self) -> tuple[float, Tensor]:
        """Compute the loss, and the gradients of all parameters as one vector."""
        loss = self.output().loss
        gradients = torch.autograd.grad(loss, list(self.model.parameters()))
        return loss.item(), torch.cat([gradient.flatten() for gradient in gradients])

    def step(self) -> None:
        """Run a forward pass, a backward pass and an optimizer step."""
        self.optimizer.zero_grad()
        self.output().loss.backward()
        self.optimizer.step()

    def seconds(self, step: Callable[[], None]) -> float:
        """Time a call in seconds, including the work that it launches on the device."""
        start = time.perf_counter()
        step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


class TimedTraining:
    """Runs and times training steps of a cell one by one."""

    def __init__(self, cell: Cell) -> None:
        """Build the model and run warm-up steps; on a GPU, the first one compiles and tunes kernels."""
        self.start_up: dict[str, float] = {}
        begin = time.perf_counter()
        self.workload = workload = Workload(cell)
        self.start_up["set_up_seconds"] = time.perf_counter() - begin
        if workload.device.type == "cuda":
            self.start_up["first_step_seconds"] = workload.seconds(workload.step)
        self.idle_bytes = memory(workload.device)
        workload.seconds(workload.step)
        self.seconds: list[float] = []

    def step(self) -> None:
        """Run and time a step."""
        self.seconds.append(self.workload.seconds(self.workload.step))
        report_partial(self.speed())

    def speed(self) -> Result:
        """Speed of the steps that were timed so far."""
        bases, seconds = self.workload.bases, self.seconds
        return {
            "device": torch.cuda.get_device_name() if self.workload.device.type == "cuda" else "CPU",
            "source": self.workload.source,
            "windows": self.workload.cell.windows,
            "bases": bases,
            "start_up": self.start_up,
            "seconds": seconds,
            "bases_per_second": {"median": bases / statistics.median(seconds), "best": bases / min(seconds)},
        }

    def result(self) -> Result:
        """Return speed, memory and FLOPs; on a CPU, also the errors of loss and gradients relative to ``ours``."""
        workload, cell = self.workload, self.workload.cell
        on_gpu = workload.device.type == "cuda"
        speed, peak = self.speed(), peak_memory(workload.device)
        workload.optimizer.zero_grad()
        workload.model.load_state_dict(workload.weights)
        with torch.no_grad():
            chunks = [stage.mask.sum(1).float() for stage in workload.output().boundaries]
        bases_per_chunk = [workload.bases / numbers.sum().item() for numbers in chunks]
        return {
            **speed,
            "parameters": sum(p.numel() for p in workload.model.parameters()),
            "bases_per_chunk": bases_per_chunk,
            "max_chunks_over_mean": [(numbers.max() / numbers.mean()).item() for numbers in chunks],
            "peak_bytes": peak,
            "bytes_per_base": (peak - self.idle_bytes) / workload.bases,
            "model_flops_per_base": cost(CONFIGURATIONS[cell.model](), cell.length, bases_per_chunk).training_flops,
            **({} if on_gpu else counted_flops(workload)),
            **({} if on_gpu or (cell.arrangement == "ours" and not cell.checkpointed) else agreement_of(workload)),
        }


def training(cell: Cell) -> Result:
    """Run and time consecutive training steps of a cell."""
    training = TimedTraining(cell)
    begin = time.perf_counter()
    while len(training.seconds) < cell.steps and (not training.seconds or time.perf_counter() - begin < cell.seconds):
        training.step()
    return training.result()


_interleaved: dict[Cell, TimedTraining] = {}


def begin(cell: Cell) -> None:
    """Build the model of a cell in this process, so that `step` can run its training steps one by one."""
    _set_up(cell)
    _interleaved[cell] = TimedTraining(cell)


def step(cell: Cell) -> None:
    """Run one step of a cell that `begin` has built."""
    _interleaved[cell].step()


def finish(cell: Cell) -> Result:
    """Return the measurements of a cell that `begin` has built, in the format of `training`."""
    return _interleaved.pop(cell).result()


def memory(device: torch.device) -> int:
    """Bytes in use: resident set size of this process for a CPU, allocated memory for a GPU.

    On a GPU, also restart the measurement of `peak_memory`.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_memory(device: torch.device) -> int:
    """Peak bytes in use: resident set size of this process for a CPU, allocated memory for a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def counted_flops(workload: Workload) -> Result:
    """Count the FLOPs of matrix products in a forward and backward pass, per base."""
    with FlopCounterMode(display=False) as counter:
        workload.gradients()
    return {"flops_per_base": counter.get_total_flops() / workload.bases}


def agreement(cell: Cell) -> Result:
    """Compare a cell's loss and gradients with those of implementation ``ours`` without activation checkpointing.

    Both models have the same weights. Differences are relative; the gradients of all parameters form one vector.
    """
    return agreement_of(Workload(cell))


def agreement_of(workload: Workload) -> Result:
    """Like `agreement`, but for an existing workload, whose model must still have its initial weights."""
    loss, gradients = workload.gradients()
    ours = Workload(replace(workload.cell, arrangement="ours", checkpointed=()))
    ours.model.load_state_dict(workload.weights)
    expected_loss, expected = ours.gradients()
    return {
        "loss": loss,
        "loss_difference": abs(loss - expected_loss) / abs(expected_loss),
        "gradient_difference": ((gradients - expected).norm() / expected.norm()).item(),
    }


def kernels(cell: Cell) -> Result:
    """Profile a step: seconds by operation and, on a GPU, by kernel, in decreasing order, and the number of kernels.

    The time of operations inside a custom autograd function is attributed to the function.
    """
    workload = Workload(cell)
    on_gpu = workload.device.type == "cuda"
    for _ in range(2):
        wall = workload.seconds(workload.step)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        workload.seconds(workload.step)
    operations: Counter[str] = Counter()
    launched: Counter[str] = Counter()
    launches = 0
    for event in profiler.events() or ():
        if event.device_type == DeviceType.CPU:
            on_device = sum(kernel.duration for kernel in event.kernels)
            operations[_owner(event)] += on_device if on_gpu else event.self_cpu_time_total
        elif not event.is_user_annotation:
            launched[event.name] += event.time_range.elapsed_us()
            launches += 1
    return {
        "step_seconds": wall,
        "launches": launches,
        "operations": {name: spent / 1e6 for name, spent in operations.most_common() if spent},
        "kernels": {name: spent / 1e6 for name, spent in launched.most_common()},
    }


def _owner(event: Any) -> str:
    """Name of the custom autograd function that encloses a profiler event; if none does, the name of the event."""
    outer = event
    while outer is not None:
        if CUSTOM_FUNCTION.fullmatch(outer.name):
            return outer.name
        outer = outer.cpu_parent
    return event.name


def synchronization(cell: Cell) -> Result:
    """Count the host-device synchronizations of a training step, in total and by source line."""
    workload = Workload(cell)
    workload.seconds(workload.step)
    with host_waits(workload.device) as lines:
        workload.step()
    return {"count": lines.total(), "lines": dict(lines)}


@contextmanager
def host_waits(device: torch.device) -> Iterator[Counter[str]]:
    """Count the synchronizations that PyTorch reports in the block, by source line; none on a CPU.

    PyTorch does not report explicit calls of ``torch.cuda.synchronize``.
    """
    lines: Counter[str] = Counter()
    if device.type == "cpu":
        yield lines
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lines
        finally:
            torch.cuda.set_sync_debug_mode("default")
    lines.update(f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))


KINDS: dict[str, Callable[[Cell], Result]] = {
    kind.__name__: kind for kind in (training, agreement, kernels, synchronization)
}
