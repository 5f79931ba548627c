"""How the training of a model is measured: batches of real bases, timed steps, and what a device says about them.

A :class:`Cell` says what is measured and :func:`measure` measures it.
"""

from __future__ import annotations

import re
import resource
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
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
from ldarnet.alphabet import IGNORE_INDEX, MASK, N, encode
from ldarnet.model import LDARNetForMaskedLM
from ldarnet.model.cost import cost
from ldarnet.ops import backends_of, choose_backends, input_dtype
from ldarnet.ops.verify import TOLERANCES, max_error
from sharding.genomes import BUNDLED_FASTA

Result = dict[str, Any]
"""What was found, as it is written to JSON."""

FAILURE = "failure"
"""The key of a result that says in words why there is none."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SEED = 0
LEARNING_RATE = 1e-4
CALIBRATION_BASES = 8192
"""That the router is calibrated on, shared by the windows."""
CUSTOM_FUNCTION = re.compile(r"_[A-Z]\w*|MambaChunkScanCombinedFn\w*|FlashAttn\w*")
"""Names of custom functions of autograd; those of their backward passes end in ``Backward``."""
PROOF_LENGTHS = (5, 64, 1, 200, 63, 1000, 128)


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        kind: a key of :data:`KINDS`.
        model: a key of :data:`benchmarks.baselines.CONFIGURATIONS`.
        arrangement: as in :func:`benchmarks.baselines.arrange`.
        length: bases in a window.
        windows: in a batch.
        device: ``cpu`` or ``cuda``.
        dtype: of the matrix products, by autocast if it is not float32.
        threads: that PyTorch computes with on a CPU; 0 leaves its own choice.
        ops: backends demanded for operations.
        recompute: stages whose layers are computed again in the backward pass.
        steps: timed steps at most.
        seconds: after which no further step is begun.
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
    recompute: tuple[int, ...] = ()
    steps: int = 3
    seconds: float = 20.0


def measure(cell: Cell) -> Result:
    """What a cell asks for."""
    _set_up(cell)
    return KINDS[cell.kind](cell)


def _set_up(cell: Cell) -> None:
    if cell.threads:
        torch.set_num_threads(cell.threads)
    torch.set_flush_denormal(True)
    transformers.utils.logging.set_verbosity_error()  # it says that its mixer has no kernels here


def real_windows(windows: int, length: int) -> tuple[Tensor, str]:
    """Ids (windows, length) of stretches spread evenly over the bundled genome, and where they are from.

    Where the packages that read it are missing, the bases are random.
    """
    try:
        from ldarnet.genome.fasta import read_fasta

        genome = encode(b"".join(piece for piece in read_fasta(BUNDLED_FASTA) if isinstance(piece, bytes)))
    except ImportError as missing:
        generator = torch.Generator().manual_seed(SEED)
        return torch.randint(0, N, (windows, length), generator=generator), f"random bases, for want of {missing.name}"
    starts = [number * (len(genome) - length) // windows for number in range(windows)]
    ids = torch.stack([torch.from_numpy(genome[start : start + length].astype(np.int64)) for start in starts])
    return ids, "baker's yeast, windows spread evenly over the bundled chromosomes"


def masked(ids: Tensor) -> tuple[Tensor, Tensor]:
    """What the model sees and the labels, as in pretraining: 15% scored; 80% of them masked, 10% replaced, 10% kept."""
    generator = torch.Generator().manual_seed(SEED)
    scored, fate = torch.rand(ids.shape, generator=generator) < 0.15, torch.rand(ids.shape, generator=generator)
    other = torch.randint(0, N, ids.shape, generator=generator)
    shown = torch.where(fate < 0.8, MASK, torch.where(fate < 0.9, other, ids))
    return torch.where(scored, shown, ids), torch.where(scored, ids, IGNORE_INDEX)


class Trial:
    """A model and a batch, ready for training steps.

    Attributes:
        model: the model that is measured.
        weights: those it starts from, on the host.
        source: where the bases are from.
    """

    def __init__(self, cell: Cell) -> None:
        """Build what the cell describes, with a router that begins a chunk at about every fourth base."""
        self.cell, self.device = cell, torch.device(cell.device)
        ids, self.source = real_windows(cell.windows, cell.length)
        self.input_ids, self.labels = (x.to(self.device) for x in masked(ids))
        self.real = torch.ones(ids.shape, dtype=torch.bool)  # on the host, as training has it
        torch.manual_seed(SEED)
        config = CONFIGURATIONS[cell.model]()
        config.ops.update(cell.ops)
        with self.device:
            self.model = LDARNetForMaskedLM(config)
        with self.autocast():
            calibrate_router(self.model, self.input_ids[:, : max(CALIBRATION_BASES // cell.windows, 64)])
        self.weights = {name: value.to("cpu", copy=True) for name, value in self.model.state_dict().items()}
        arrange(self.model, cell.arrangement)
        self.model.set_activation_checkpointing(cell.recompute)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, fused=True)

    @property
    def bases(self) -> int:
        """Of a batch."""
        return self.input_ids.numel()

    def autocast(self) -> torch.autocast:
        """The precision that the cell asks for."""
        return torch.autocast(self.device.type, DTYPES[self.cell.dtype], enabled=self.cell.dtype != "float32")

    def output(self) -> Any:
        """What the model returns for the batch, with the loss of pretraining."""
        with self.autocast():
            return self.model(self.input_ids, self.real, self.labels)

    def gradients(self) -> tuple[float, Tensor]:
        """The loss and all gradients in one row."""
        loss = self.output().loss
        gradients = torch.autograd.grad(loss, list(self.model.parameters()))
        return loss.item(), torch.cat([gradient.flatten() for gradient in gradients])

    def step(self) -> None:
        """Forward, backward, update."""
        self.optimizer.zero_grad()
        self.output().loss.backward()
        self.optimizer.step()

    def seconds(self, step: Callable[[], None]) -> float:
        """How long something takes, until the device is done."""
        start = time.perf_counter()
        step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


class Training:
    """Training steps of one model, timed one by one."""

    def __init__(self, cell: Cell) -> None:
        """Build the model and take a step that is not counted."""
        self.trial = trial = Trial(cell)
        if trial.device.type == "cuda":
            trial.step()  # compiles kernels and makes the optimiser's state, neither of which is a step's own
        self.at_rest = memory(trial.device)
        trial.seconds(trial.step)
        self.seconds: list[float] = []

    def step(self) -> None:
        """Take a step and its time."""
        self.seconds.append(self.trial.seconds(self.trial.step))

    def result(self) -> Result:
        """Speed, memory and work of the steps; on a CPU also whether another arrangement computes the same."""
        trial, cell, seconds = self.trial, self.trial.cell, self.seconds
        on_gpu = trial.device.type == "cuda"
        peak = peak_memory(trial.device)
        trial.optimizer.zero_grad()
        trial.model.load_state_dict(trial.weights)
        with torch.no_grad():
            chunks = [stage.mask.sum(1).float() for stage in trial.output().boundaries]
        bases_per_chunk = [trial.bases / numbers.sum().item() for numbers in chunks]
        return {
            "device": torch.cuda.get_device_name() if on_gpu else "CPU",
            "source": trial.source,
            "parameters": sum(p.numel() for p in trial.model.parameters()),
            "bases": trial.bases,
            "bases_per_chunk": bases_per_chunk,
            "most_chunks_over_mean": [(numbers.max() / numbers.mean()).item() for numbers in chunks],
            "seconds": seconds,
            "bases_per_second": {
                "median": trial.bases / statistics.median(seconds),
                "best": trial.bases / min(seconds),
            },
            "peak_bytes": peak,
            "bytes_per_base": (peak - self.at_rest) / trial.bases,
            "model_flops_per_base": cost(CONFIGURATIONS[cell.model](), cell.length, bases_per_chunk).training_flops,
            **({} if on_gpu else counted_work(trial)),
            **({} if on_gpu or (cell.arrangement == "ours" and not cell.recompute) else agreement_of(trial)),
        }


def training(cell: Cell) -> Result:
    """As many steps as a cell asks for, one after the other."""
    training = Training(cell)
    begin = time.perf_counter()
    while len(training.seconds) < cell.steps and (not training.seconds or time.perf_counter() - begin < cell.seconds):
        training.step()
    return training.result()


_in_turn: dict[Cell, Training] = {}


def begin(cell: Cell) -> None:
    """Make ready to take steps in turn with other processes."""
    _set_up(cell)
    _in_turn[cell] = Training(cell)


def step(cell: Cell) -> None:
    """Take one step of what was begun."""
    _in_turn[cell].step()


def finish(cell: Cell) -> Result:
    """What was found, as by `training`."""
    return _in_turn.pop(cell).result()


def memory(device: torch.device) -> int:
    """Bytes in use; on a GPU the peak counts from here on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_memory(device: torch.device) -> int:
    """The most bytes that were in use, by this process or on its GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def counted_work(trial: Trial) -> Result:
    """Floating-point operations of products, counted while forward and backward run."""
    with FlopCounterMode(display=False) as counter:
        trial.gradients()
    return {"flops_per_base": counter.get_total_flops() / trial.bases}


def agreement(cell: Cell) -> Result:
    """How far loss and gradients are from those of our arrangement, without recomputation and with the same weights."""
    return agreement_of(Trial(cell))


def agreement_of(trial: Trial) -> Result:
    """The same, of a trial whose weights are as it began."""
    loss, gradients = trial.gradients()
    ours = Trial(replace(trial.cell, arrangement="ours", recompute=()))
    ours.model.load_state_dict(trial.weights)
    own_loss, own_gradients = ours.gradients()
    return {
        "loss": loss,
        "loss_difference": abs(loss - own_loss) / abs(own_loss),
        "gradient_difference": ((gradients - own_gradients).norm() / own_gradients.norm()).item(),
    }


def kernels(cell: Cell) -> Result:
    """Where the time of a step goes, by operation and, on a GPU, by kernel; seconds, the longest first.

    What a custom function of autograd calls counts as its own.
    """
    trial = Trial(cell)
    on_gpu = trial.device.type == "cuda"
    for _ in range(2):
        wall = trial.seconds(trial.step)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        trial.seconds(trial.step)
    operations: Counter[str] = Counter()
    launched: Counter[str] = Counter()
    for event in profiler.events() or ():
        if event.device_type == DeviceType.CPU:
            on_device = sum(kernel.duration for kernel in event.kernels)
            operations[_owner(event)] += on_device if on_gpu else event.self_cpu_time_total
        elif not event.is_user_annotation:
            launched[event.name] += event.time_range.elapsed_us()
    return {
        "step_seconds": wall,
        "operations": {name: spent / 1e6 for name, spent in operations.most_common() if spent},
        "kernels": {name: spent / 1e6 for name, spent in launched.most_common()},
    }


def _owner(event: Any) -> str:
    """The custom function of autograd that an event belongs to, or its own name."""
    outer = event
    while outer is not None:
        if CUSTOM_FUNCTION.fullmatch(outer.name):
            return outer.name
        outer = outer.cpu_parent
    return event.name


def waits(cell: Cell) -> Result:
    """How often a step makes the host wait for a GPU, and in which lines."""
    trial = Trial(cell)
    trial.seconds(trial.step)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        trial.step()
        torch.cuda.set_sync_debug_mode("default")
    places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))
    return {"waits": places.total(), "places": dict(places)}


def backends(cell: Cell) -> Result:
    """What each operation uses, and what else could compute it here."""
    dtype = DTYPES[cell.dtype]
    return {
        operation: {
            "chosen": name,
            "others": {
                other: backend.unsupported_reason(cell.device, input_dtype(operation, dtype))
                for other, backend in backends_of(operation).items()
                if other != name
            },
        }
        for operation, name in choose_backends(cell.device, dtype).items()
    }


def proof(cell: Cell) -> Result:
    """Whether the one backend that a cell demands is right here."""
    ((operation, name),) = cell.ops.items()
    backend, dtype = backends_of(operation)[name], DTYPES[cell.dtype]
    if obstacle := backend.unsupported_reason(cell.device, dtype):
        return {"obstacle": obstacle}
    error = max_error(backend, cell.device, dtype, PROOF_LENGTHS)
    return {"error": error, "tolerance": TOLERANCES[dtype], "right": error <= TOLERANCES[dtype]}


KINDS: dict[str, Callable[[Cell], Result]] = {
    kind.__name__: kind for kind in (training, agreement, kernels, waits, backends, proof)
}
