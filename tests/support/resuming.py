"""Launches that read every file of a run or sweep as a resumed launch does, but train nothing: milliseconds each."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ldarnet.pretraining import run as pretraining_run
from ldarnet.pretraining.setup import Inputs
from ldarnet.runtime.guard import Guard
from ldarnet.runtime.optimizer import build_optimizer
from ldarnet.runtime.signals import StopRequest
from ldarnet.runtime.timers import StepTimers


class PlainEngine:
    """Stands in for `Engine`: AdamW without DeepSpeed. Weights, moments and guard can be restored, not trained."""

    def __init__(self, model: torch.nn.Module, groups: list[dict], options: Any, world: Any) -> None:
        self.options = replace(options, zero_stage=0, offload=False)
        self.model, self.model_config = model, getattr(model, "config", None)
        self.guard = Guard(options.guard, world.device)
        self.deepspeed = SimpleNamespace(optimizer=build_optimizer(groups, options.optimizer), destroy=lambda: None)


@contextmanager
def no_training() -> Iterator[None]:
    """In the block, launches of pretraining, fine-tuning and sweeps end where training or trials would start.

    Everything before is real: locks, configuration, checkpoints, optimizer state, metrics files, callbacks, and
    everything after it: results, summaries, comparisons.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        patch.setattr("ldarnet.runtime.zero_state.Engine", PlainEngine)
        for program in ("pretraining", "finetuning"):
            patch.setattr(f"ldarnet.{program}.run.supervised", _unsupervised)
        for module in ("pretraining.async_checkpoint", "pretraining.callbacks.provenance", "finetuning.results"):
            patch.setattr(f"ldarnet.{module}.code_commit", lambda: None)
        patch.setattr(pretraining_run, "prepare_inputs", _cached(pretraining_run.prepare_inputs))
        patch.setattr(pretraining_run, "loop", _first_hooks)
        patch.setattr("ldarnet.finetuning.fold.FoldTraining.run", lambda fold: fold.schedule.over)
        patch.setattr("ldarnet.finetuning.fold.gc", SimpleNamespace(collect=lambda: 0))
        yield


@contextmanager
def no_trials() -> Iterator[None]:
    """In the block, sweeps run no trials and need no Ray cluster; they read and write all files of the sweep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        patch.setattr("ldarnet.sweeps.sweep.ray_cluster", lambda _: nullcontext())
        patch.setattr("ldarnet.sweeps.sweep.gpus_per_trial", lambda *_: 0.0)
        patch.setattr("ldarnet.sweeps.driver.Driver.run", _first_trial)
        # The stub of fine-tuning writes less than a comparison needs.
        patch.setattr("ldarnet.sweeps.report.write_comparison", lambda *_: None)
        yield


@contextmanager
def _unsupervised(*_: object) -> Iterator[tuple[StepTimers, StopRequest]]:
    yield StepTimers(), StopRequest()


def _cached(prepare: Any) -> Any:
    """Prepare inputs once for each set of shards and model: building the model takes most of the time."""
    known: dict[tuple[str, str], Inputs] = {}

    def cached(config: Any, world: Any) -> Inputs:
        key = (str(config.data.shards), config.model.model_dump_json())
        if key not in known:
            known[key] = prepare(config, world)
        return known[key]

    return cached


def _first_hooks(run: Any, checkpointer: Any, callbacks: Any, request: Any) -> Any:
    """What `loop` does before the first step."""
    for callback in callbacks:
        callback.before_step(run.resumed.step)
    return run.resumed


def _first_trial(driver: Any, base: Any, *_: object) -> None:
    """What `Driver.run` does before the first trial."""
    driver._scheduler(base)
    driver.suggest("first")
