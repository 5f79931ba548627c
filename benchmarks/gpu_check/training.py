"""Checks of the DeepSpeed engine with one rank: speed with and without switches, skipped steps, save and resume."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.baselines import calibrate_router
from benchmarks.gpu_check.results import Result
from benchmarks.measure import CALIBRATION_BASES, SEED, host_waits, masked, real_windows
from benchmarks.worker import report_partial
from ldarnet.config import RunConfig
from ldarnet.data.loader import Batch
from ldarnet.model import LDARNetForMaskedLM, linear
from ldarnet.ops import to_device
from ldarnet.pretraining.step_totals import pretraining_loss
from ldarnet.runtime import distributed
from ldarnet.runtime import engine as engines
from ldarnet.runtime.checkpoint import TrainingState, read_state
from ldarnet.runtime.checkpoint_files import CheckpointContents, load_weights
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import EngineOptions
from ldarnet.runtime.host_buffers import HostBuffers
from ldarnet.runtime.optimizer import parameter_groups
from ldarnet.runtime.zero_state import engine_from_checkpoint, whole_moments, whole_weights

WARM_UP_STEPS, BLOCKS = 5, 5
TIMEOUT_MINUTES = 5.0


@cache
def one_rank() -> World:
    """Process group of this process alone."""
    return distributed.start(TIMEOUT_MINUTES)


class Trainer:
    """A model and its DeepSpeed engine, and different real windows for every step.

    Args:
        model: model preset.
        length: bases per window.
        windows: windows per step.
        steps: steps of a run; the first `steps` batches differ.
        zero_stage: ZeRO stage.
        checkpoint: checkpoint folder to resume from; None for initial weights.
        pinned: copy batches through page-locked memory, as training does; if False, copy int64 from ordinary memory.
    """

    def __init__(
        self,
        model: str,
        length: int,
        windows: int,
        steps: int,
        zero_stage: int,
        *,
        checkpoint: Path | None = None,
        pinned: bool = True,
    ) -> None:
        self.world, self.pinned, self.bases = one_rank(), pinned, windows * length
        ids, self.source = real_windows(windows * steps, length)
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(SEED))
        inputs, labels = masked(ids[order])
        self.batches = [
            Batch(shown.to(torch.uint8), target.to(torch.int8), number * windows, windows)
            for number, (shown, target) in enumerate(zip(inputs.split(windows), labels.split(windows), strict=True))
        ]
        self.config = run_config(model, length, windows, zero_stage)
        torch.manual_seed(SEED)
        with self.world.device:
            network = LDARNetForMaskedLM(self.config.model.build(self.config.ops))
        if checkpoint is None:
            positions = max(CALIBRATION_BASES // windows, 64)
            with torch.autocast(self.world.device.type, torch.bfloat16):
                calibrate_router(network, inputs[:windows, :positions].to(self.world.device))
        else:
            load_weights(network, checkpoint)
        state = None if checkpoint is None else read_state(checkpoint)
        options = EngineOptions.of(self.config, self.world)
        groups = parameter_groups(network, self.config.optimizer)
        updates = state.guard["accepted"] if state else 0
        self.engine = engine_from_checkpoint(network, groups, options, self.world, checkpoint, updates)
        if state:
            self.engine.guard.load_state_dict(state.guard)

    def step(self, number: int, factor: float = 1.0) -> Tensor:
        """Run one step; return the loss, a scalar on the device.

        Args:
            number: step number, from 0; selects the batch.
            factor: factor of the loss.
        """
        batch, device = self.batches[number % len(self.batches)], self.world.device
        if self.pinned:
            input_ids, labels = (to_device(part, device, torch.int64) for part in (batch.input_ids, batch.labels))
        else:
            input_ids, labels = (part.long().to(device, non_blocking=True) for part in (batch.input_ids, batch.labels))
        targets = int(batch.target_counts.sum())
        output = self.engine.forward(input_ids)
        shape = self.engine.model_config
        loss, totals = pretraining_loss(
            output, labels, scored=targets, accumulation=1, target=shape.target_ratio, config=shape,
            world=self.world,
        )  # fmt: skip
        self.engine.backward(loss * factor)
        mean = totals.nll * factor / max(targets, 1)
        _, norm = self.engine.update(1.0, mean)
        self.engine.guard.record(number + 1, norm, [batch], totals.windows)
        return mean

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.world.device.type == "cuda":
            torch.cuda.synchronize()

    def state(self) -> dict[str, Tensor]:
        """Copies of all weights and moments on the host."""
        tensors = (*whole_weights(self.engine), *whole_moments(self.engine))
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors}

    def save(self, folder: Path, step: int) -> dict[str, float]:
        """Write a checkpoint; return the seconds during which training waits, and the seconds of the whole save."""
        begin, buffers = time.perf_counter(), HostBuffers(self.world.device)
        weights = buffers.copy(whole_weights(self.engine), keep=True)
        moments = buffers.copy(whole_moments(self.engine), keep=True)
        stall = time.perf_counter() - begin
        guard: Any = self.engine.guard.state_dict()
        state = TrainingState(step, 2 * step, step, SEED, fingerprint="gpu_check", guard=guard)
        contents = CheckpointContents(weights, moments, self.engine.model_config, self.config, state, buffers.wait)
        contents.write(folder)
        return {"stall_seconds": stall, "save_seconds": time.perf_counter() - begin}


def run_config(model: str, length: int, windows: int, zero_stage: int) -> RunConfig:
    """Configuration of a pretraining run with bf16 autocast and one micro-step per step."""
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"preset": model},
            "data": {"shards": "unused", "length": length},
            "training": {
                "steps": 10**6, "batch": windows, "accumulation": 1, "zero_stage": zero_stage, "precision": "bf16",
            },
        }
    )  # fmt: skip


def engine(
    steps: int,
    *,
    timer: bool = False,
    tf32: bool = True,
    pinned: bool = True,
    chunk_capacity: float | None = None,
    **settings: Any,
) -> Result:
    """Time steps of the DeepSpeed engine, and count the host synchronizations of a step.

    Args:
        steps: timed steps, after `WARM_UP_STEPS`.
        timer: enable DeepSpeed's throughput timer.
        tf32: use TF32 where the model does; otherwise, compute these matrix products in float32.
        pinned: see `Trainer`.
        chunk_capacity: static number of chunks, see `LDARNetForMaskedLM.set_chunk_capacity`; None to count chunks.
        settings: `model`, `length`, `windows` and `zero_stage`.
    """
    total = WARM_UP_STEPS + steps
    with ExitStack() as switches:
        switches.enter_context(throughput_timer(timer))
        if not tf32:
            switches.enter_context(patch.object(linear, "tf32", lambda *_: nullcontext()))
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        trainer = Trainer(steps=total, pinned=pinned, **settings)
        trainer.engine.model.set_chunk_capacity(chunk_capacity)
        losses = [trainer.step(number) for number in range(WARM_UP_STEPS)]
        trainer.synchronize()
        result: Result = {"set_up_seconds": time.perf_counter() - begin, "bases": trainer.bases, "seconds": []}
        for block in torch.arange(WARM_UP_STEPS, total).tensor_split(min(BLOCKS, steps)):
            begin = time.perf_counter()
            losses += [trainer.step(number) for number in block.tolist()]
            trainer.synchronize()
            result["seconds"].append((time.perf_counter() - begin) / len(block))
            report_partial(result)
        with waits_of_deepspeed() as explicit, host_waits(trainer.world.device) as reported:
            trainer.step(total)
        result |= {
            "source": trainer.source,
            "losses": torch.stack(losses).tolist(),
            "waits": {**reported, **explicit},
            "skipped_steps": [step.step for step in trainer.engine.guard.take_skipped()],
            "allocator": os.environ.get("PYTORCH_ALLOC_CONF", ""),
        }
        if trainer.world.device.type == "cuda":
            result["peak_bytes"] = torch.cuda.max_memory_allocated()
            result["reserved_bytes"] = torch.cuda.memory_reserved()
        return result


@contextmanager
def throughput_timer(enabled: bool) -> Iterator[None]:
    """Set DeepSpeed's throughput timer of engines that are built in the block."""
    configure = engines.deepspeed_config

    def configured(*arguments: Any) -> Any:
        return {**configure(*arguments), "timers": {"throughput": {"enabled": enabled}}}

    with patch.object(engines, "deepspeed_config", configured):
        yield


@contextmanager
def waits_of_deepspeed() -> Iterator[Counter[str]]:
    """Count DeepSpeed's explicit synchronizations in the block; PyTorch does not report them."""
    from deepspeed.accelerator import get_accelerator

    waits: Counter[str] = Counter()
    kind = type(get_accelerator())
    synchronize = kind.synchronize

    def counted(*arguments: Any, **settings: Any) -> Any:
        waits["DeepSpeed synchronize()"] += 1
        return synchronize(*arguments, **settings)

    with patch.object(kind, "synchronize", counted):
        yield waits


def planted_nan(steps: int, **settings: Any) -> Result:
    """Make loss and gradients of one step NaN, and check that the guard skips exactly this step.

    Args:
        steps: steps before the step with the NaN.
        settings: `model`, `length`, `windows` and `zero_stage`.
    """
    trainer = Trainer(steps=steps + 2, **settings)
    for number in range(steps):
        trainer.step(number)
    before = trainer.state()
    trainer.step(steps, factor=float("nan"))
    unchanged = not differences(before, trainer.state())
    last = trainer.step(steps + 1).item()
    after = trainer.state()
    skipped = [step.step for step in trainer.engine.guard.take_skipped()]
    finite = all(bool(tensor.isfinite().all()) for tensor in after.values())
    changed = bool(differences(before, after))
    return {
        "planted_step": steps + 1,
        "skipped_steps": skipped,
        "unchanged": unchanged,
        "continues": changed and finite,
        "last_loss": last,
        "passed": unchanged and changed and finite and skipped == [steps + 1],
    }


def resume(steps: int, **settings: Any) -> Result:
    """Save a checkpoint, resume from it twice, and compare the results with the uninterrupted run.

    If the two resumed runs differ, the device itself is not deterministic.

    Args:
        steps: steps before the checkpoint, and again after it.
        settings: `model`, `length`, `windows` and `zero_stage`.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer, checkpoint = Trainer(steps=2 * steps, **settings), Path(folder)
        for number in range(steps):
            trainer.step(number)
        result: Result = trainer.save(checkpoint, steps)
        report_partial(result)
        saved = trainer.state()
        runs = [_finish(trainer, steps)]
        del trainer
        for _ in range(2):
            resumed = Trainer(steps=2 * steps, checkpoint=checkpoint, **settings)
            if not runs[1:]:
                result["restored"] = not differences(saved, resumed.state())
            runs.append(_finish(resumed, steps))
            del resumed
    (expected_losses, expected), (losses, once), (_, again) = runs
    changed, repeated = differences(expected, once), differences(once, again)
    return result | {
        "steps": steps,
        "uninterrupted_losses": expected_losses,
        "resumed_losses": losses,
        "identical": not changed,
        "max_difference": max(changed.values(), default=0.0),
        "deterministic": not repeated,
        "max_difference_of_repeats": max(repeated.values(), default=0.0),
    }


def _finish(trainer: Trainer, steps: int) -> tuple[list[float], dict[str, Tensor]]:
    losses = [trainer.step(number) for number in range(steps, 2 * steps)]
    return torch.stack(losses).tolist(), trainer.state()


def differences(expected: dict[str, Tensor], actual: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference of each tensor that is not bit-identical, relative to the largest expected value."""
    found = {}
    for name, tensor in expected.items():
        if not torch.equal(tensor, actual[name]):
            scale = tensor.abs().max().clamp(min=1e-30)
            found[name] = ((tensor - actual[name]).abs().max() / scale).item()
    return found
