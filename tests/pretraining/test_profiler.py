"""Profiler traces by configuration and by signal."""

import gzip
import json
import os
import signal
from contextlib import contextmanager
from types import SimpleNamespace

import torch

from ldarnet.pretraining.callbacks.profiler import STEPS_ON_REQUEST, StepProfiler


@contextmanager
def profiling(run_dir, rank=0, planned=None, printed=None):
    config = SimpleNamespace(run=SimpleNamespace(dir=run_dir), tracking=SimpleNamespace(profile=planned))
    console = SimpleNamespace(info=([] if printed is None else printed).append)
    world = SimpleNamespace(rank=rank, is_main=rank == 0)
    profiler = StepProfiler(SimpleNamespace(config=config, console=console, world=world))
    profiler.on_run_start()
    yield profiler
    profiler.close()


def steps(profiler, first, last):
    for completed in range(first, last):
        profiler.before_step(completed)
        torch.ones(8, 8) @ torch.ones(8, 8)


def names(folder):
    return sorted(path.name for path in (folder / "profiles").glob("*"))


def test_configured_steps_are_traced(tmp_path):
    output = []
    with profiling(tmp_path, planned=(2, 3), printed=output) as profiler:
        steps(profiler, 0, 6)
    assert names(tmp_path) == ["rank-00000-step-00000003.json.gz"]
    assert "ui.perfetto.dev" in output[0]
    trace = json.loads(gzip.decompress((tmp_path / "profiles" / names(tmp_path)[0]).read_bytes()))
    products = [event for event in trace["traceEvents"] if event.get("name") == "aten::mm"]
    assert len(products) == 2


def test_signal_traces_the_next_steps(tmp_path):
    before = signal.getsignal(signal.SIGUSR2)
    with profiling(tmp_path, rank=3) as profiler:
        steps(profiler, 0, 5)
        assert not (tmp_path / "profiles").exists()
        os.kill(os.getpid(), signal.SIGUSR2)
        steps(profiler, 5, 20)
    assert names(tmp_path) == [f"rank-00003-step-{5 + STEPS_ON_REQUEST:08d}.json.gz"]
    assert signal.getsignal(signal.SIGUSR2) == before


def test_incomplete_or_unwritable_trace_does_not_end_the_run(tmp_path):
    with profiling(tmp_path, planned=(1, 100)) as profiler:
        steps(profiler, 0, 3)
    assert names(tmp_path) == ["rank-00000-step-00000003.json.gz"]
    output = []
    (tmp_path / "full").write_text("no folder")
    with profiling(tmp_path / "full", planned=(1, 1), printed=output) as profiler:
        steps(profiler, 0, 3)
    assert "not written" in output[0]
