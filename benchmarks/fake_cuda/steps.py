"""Run LDARNet's training steps for pretraining and fine-tuning on fake CUDA tensors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.baselines import arrange
from benchmarks.fake_cuda.kernels import GPU, use_gpu_kernels
from benchmarks.fake_cuda.recorder import Recorder, place
from benchmarks.fake_cuda.trace import FINETUNE, Trace, TraceRequest
from ldarnet.alphabet import N
from ldarnet.config import FinetuneConfig, RunConfig
from ldarnet.data import curriculum_stages
from ldarnet.data.windows import Locations
from ldarnet.finetuning.batches import Epoch
from ldarnet.finetuning.display import FinetuneProgress
from ldarnet.finetuning.fold import FoldTraining
from ldarnet.finetuning.targets import ClassTargets
from ldarnet.model import LDARNetForMaskedLM, LDARNetForSequenceClassification
from ldarnet.pretraining import loop as pretraining
from ldarnet.pretraining.callbacks.base import Callback
from ldarnet.pretraining.chunk_boundaries import boundary_source
from ldarnet.pretraining.chunk_capacity import SETTLED_STEPS
from ldarnet.pretraining.masks import training_masking
from ldarnet.pretraining.schedule import Schedule
from ldarnet.runtime import engine as engines
from ldarnet.runtime.checkpoint import ChunkState, TrainingState
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import EngineOptions
from ldarnet.runtime.optimizer import parameter_groups
from ldarnet.runtime.signals import StopRequest
from ldarnet.runtime.timers import StepTimers
from ldarnet.runtime.zero_state import engine_from_checkpoint

DEVICE = torch.device("cuda", 0)
LOGGED, UNLOGGED = "logged", "not logged"
STEPS = (LOGGED, UNLOGGED)
"""Traced steps: the first step of a pretraining run logs metrics, the second does not."""
SEED = 0


def run(workload: TraceRequest) -> Trace:
    """Trace a workload; the fake CUDA device must be loaded."""
    torch.set_num_threads(1)
    torch._C._set_only_lift_cpu_tensors(True)  # make torch.tensor dispatch its copy to the device
    recorder = Recorder(workload.bases_per_chunk)
    kernels, scan = use_gpu_kernels(recorder, workload.ops)
    program = finetune if workload.program == FINETUNE else pretrain
    module: Any = engines
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(module, "load_deepspeed", lambda: SimpleNamespace(initialize=one_rank_engine)),
        patch.object(torch.cuda, "Event", lambda **_: RecordedEvent(recorder)),
        patch.object(torch.nn.Module, "to", lambda module, *_, **__: module),  # models are built on the device
        torch.autograd.set_multithreading_enabled(False),  # the recorder only sees operations of this thread
        recorder,
    ):
        program(workload, kernels, recorder, Path(folder))
    steps = recorder.finish()
    return Trace(kernels, scan, {name: step for name, step in steps.items() if step.bases})


class RecordedEvent:
    """Stand-in for `torch.cuda.Event` that records waits."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def record(self) -> None:
        """Do nothing."""

    def synchronize(self) -> None:
        """Record that the host waits."""
        self._recorder.wait(place())


class OneRank(World):
    """The only rank of a run on a GPU; collectives return their input."""

    @property
    def device_name(self) -> str:
        """Name of the GPU."""
        return GPU

    def sum_on_host(self, *numbers: int) -> list[int]:
        """Return the numbers."""
        return [int(number) for number in numbers]

    def sum_on_device(self, values: torch.Tensor) -> torch.Tensor:
        """Return the tensor."""
        return values

    def gather_numbers(self, numbers: list[float]) -> torch.Tensor:
        """Return the numbers as a tensor of shape (1, len(numbers))."""
        return torch.tensor([numbers], dtype=torch.float64)

    def gather(self, items: list[Any]) -> list[Any]:
        """Return the list."""
        return items

    def from_main(self, produce: Any) -> Any:
        """Return the result of `produce`."""
        return produce()


class OneRankEngine:
    """Stand-in for DeepSpeed's engine in ZeRO stage 0; autograd accumulates the gradients."""

    def __init__(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, autocast: bool, accumulation: int
    ) -> None:
        self.model, self.optimizer, self.autocast, self.accumulation = model, optimizer, autocast, accumulation
        self._micro_step = 1

    def __call__(self, **inputs: Any) -> Any:
        """Run the forward pass."""
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.autocast):
            return self.model(**inputs)

    def backward(self, loss: torch.Tensor) -> None:
        """Run the backward pass."""
        loss.backward()

    def is_gradient_accumulation_boundary(self) -> bool:
        """Whether the next call of `step` updates the weights."""
        return self._micro_step == self.accumulation

    def step(self) -> None:
        """End a micro-step; after the last one, update the weights."""
        if not self.is_gradient_accumulation_boundary():
            self._micro_step += 1
            return
        self._micro_step = 1
        self.optimizer.step()
        self.optimizer.zero_grad()


def one_rank_engine(*, model: torch.nn.Module, optimizer: Any, config: Any, **_: Any) -> tuple[OneRankEngine]:
    """Stand-in for `deepspeed.initialize`."""
    accumulation = config["gradient_accumulation_steps"]
    return (OneRankEngine(model, optimizer, config["torch_autocast"]["enabled"], accumulation),)


class RecordedTimers(StepTimers):
    """Timers that pass the phase of the step to the recorder."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    @contextmanager
    def phase(self, step: int, name: str) -> Iterator[None]:
        """Time the block as a phase, and record its operations under this name."""
        outer, self._recorder.phase = self._recorder.phase, name
        with super().phase(step, name):
            yield
        self._recorder.phase = outer


class RandomWindows:
    """Stand-in for `ldarnet.data.Windows`: endless windows of random bases."""

    shards = SimpleNamespace(fingerprint="random")

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return 2**20

    def locations(self, positions: np.ndarray) -> Locations:
        """Place all windows at the same location."""
        zeros = np.zeros(len(positions), dtype=np.int64)
        return Locations(zeros, zeros, zeros, zeros.astype(bool))

    def read(self, locations: Locations) -> tuple[np.ndarray, dict[int, str]]:
        """Draw the bases of the windows."""
        shape = len(locations.start), self.length
        return np.random.default_rng(SEED).integers(0, N, shape, dtype=np.uint8), {}

    def prefetch(self, locations: Locations) -> None:
        """Fetch nothing."""


class _TracedError(Exception):
    """Ends the run when all steps have been traced."""


class StepMarker(Callback):
    """Tells the recorder which step begins, and ends the run after the last traced step."""

    def __init__(self, context: Any, recorder: Recorder, bases: int) -> None:
        super().__init__(context)
        self._recorder, self._bases = recorder, bases

    def before_step(self, step: int) -> None:
        """Begin a step."""
        if step == len(STEPS):
            raise _TracedError
        self._recorder.begin(STEPS[step])
        self._recorder.step.bases = self._bases


def pretrain(workload: TraceRequest, kernels: dict[str, str], recorder: Recorder, folder: Path) -> None:
    """Run the pretraining loop for a logged step and a step that is not logged."""
    total = 100  # more than the traced steps
    config = RunConfig.model_validate(
        {
            "run": {"dir": folder},
            "model": {
                "preset": workload.preset, "chunking": workload.chunking,
                "chunking_tokenizer": workload.chunking_tokenizer,
            },
            "optimizer": {"name": workload.optimizer},
            "data": {"shards": "random", "length": workload.length},
            "training": {
                "steps": total, "batch": workload.windows * workload.accumulation,
                "accumulation": workload.accumulation, "zero_stage": 0, "precision": "bf16", "log_every": total,
                "chunk_capacity_factor": workload.chunk_capacity_factor,
            },
            "checkpoint": {"every": total},
            "validation": {"windows": 0},
            "ops": kernels,
        }
    )  # fmt: skip
    model_config = config.model.build(config.ops)
    with DEVICE:
        model = LDARNetForMaskedLM(model_config)
    arrange(model, workload.arrangement)
    windows: Any = RandomWindows(workload.length)
    if model_config.chunking_method.learns_before_training:
        model.model.backbone.router.fit(windows.read(windows.locations(np.arange(1)))[0])
    world, timers = OneRank.alone(DEVICE), RecordedTimers(recorder)
    options = EngineOptions.of(config, world)
    groups = parameter_groups(model, config.optimizer)
    chunks: ChunkState = {"settled": SETTLED_STEPS, "pending": []}
    state = TrainingState(step=0, total_steps=total, position=0, seed=SEED, fingerprint="random", chunks=chunks)
    inputs = SimpleNamespace(
        model=model,
        boundaries=boundary_source(config, model_config, windows.shards),
        total_steps=total,
        parts=curriculum_stages([], workload.length, total),
        by_length={workload.length: windows},
        masking=training_masking(config),
        schedule=Schedule(config.schedule, total, model.config.target_ratio),
        bases_per_token=1.0,
    )
    context: Any = SimpleNamespace(
        config=config,
        inputs=inputs,
        engine=engine_from_checkpoint(model, groups, options, world, None, 0),
        world=world,
        timers=timers,
        resumed=state,
        warn=print,
    )
    marker = StepMarker(context, recorder, workload.windows * workload.accumulation * workload.length)
    checkpointer: Any = None  # the run ends before its first checkpoint
    try:
        pretraining.loop(context, checkpointer, [marker], StopRequest())
    except _TracedError:
        return


def finetune(workload: TraceRequest, kernels: dict[str, str], recorder: Recorder, folder: Path) -> None:
    """Run one step of fine-tuning on rows of two lengths."""
    config = FinetuneConfig.model_validate(
        {
            "run": {"dir": folder},
            "data": {"train": folder / "random.csv"},
            "model": {"preset": workload.preset},
            "optimizer": {"lr": 1e-4},
            "training": {"batch": workload.windows, "zero_stage": 0, "precision": "bf16"},
            "ops": kernels,
        }
    )
    model_config = config.model.build(config.ops)
    model_config.num_labels = 2
    with DEVICE:
        network = LDARNetForSequenceClassification(model_config)
    rng = np.random.default_rng(SEED)
    lengths = [workload.length - (row % 2) * (workload.length // 4) for row in range(workload.windows)]
    rows = np.arange(workload.windows)
    job: Any = SimpleNamespace(
        config=config,
        data=SimpleNamespace(fingerprint="random", classes=["0", "1"]),
        rows=SimpleNamespace(labels=rows % 2),
        ids=[rng.integers(0, N, length, dtype=np.uint8) for length in lengths],
        folds={0: (rows, rows)},
        network=network,
        autocast=True,
        folder=lambda fold: folder,
        fitted_targets=lambda fold: ClassTargets(["0", "1"]),
    )
    context: Any = SimpleNamespace(
        world=OneRank.alone(DEVICE),
        timers=RecordedTimers(recorder),
        request=StopRequest(),
        display=FinetuneProgress(False),
    )
    training = FoldTraining(job, 0, context, None)
    epoch = Epoch.of(workload.windows, workload.windows, seed=(SEED,), both_strands=False)
    recorder.begin(UNLOGGED)
    recorder.step.bases = sum(lengths)
    recorder.phase = "train"
    training._step(epoch)
