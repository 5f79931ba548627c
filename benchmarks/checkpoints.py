"""Measure how long checkpoints stall training, how long they take to write, and how much host memory they need.

    python -m benchmarks.checkpoints ldarnet-2m ldarnet-110m

Runs a single rank and writes to a temporary folder inside `--folder`. Not tested on a GPU.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.record import ProgramParser, add_result_options, heading, result_file, run_program, write_result
from ldarnet.config import RunConfig
from ldarnet.errors import UserError
from ldarnet.markdown import table
from ldarnet.model import LDARNetForMaskedLM
from ldarnet.pretraining.async_checkpoint import AsyncCheckpointer
from ldarnet.runtime import distributed
from ldarnet.runtime.checkpoint import CheckpointStore, TrainingState
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import Engine, EngineOptions
from ldarnet.runtime.optimizer import parameter_groups
from ldarnet.runtime.zero_state import prepare_optimizer_state

HEADER = (
    "preset",
    "ZeRO stage",
    "parameters, million",
    "checkpoint, MB",
    "first stall, s",
    "stall, s",
    "written after, s",
    "host memory, bytes per parameter",
    "throughput while writing, relative",
)
METHOD = """Stall: duration of the call that gathers weights and moments on the host. The first call allocates
the memory for the copies, and later calls reuse it; version 0.1 allocated it in every call. Written after: time from
the end of that call until the folder is hashed, flushed and has its final name. Host memory: growth of the resident set
size since before the call, maximum over all repeats. Throughput while writing: matrix products per second on one thread
while the checkpoint is written, relative to the rate without a checkpoint. All other values are medians."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the results file and print its path."""
    parser = ProgramParser("checkpoints", __doc__)
    parser.add_argument("presets", nargs="+", metavar="PRESET", help="model presets")
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 3], help="ZeRO stages")
    parser.add_argument("--repeats", type=int, default=3, help="checkpoints per preset and ZeRO stage")
    parser.add_argument("--folder", type=Path, help="location of the temporary folder (default: system default)")
    add_result_options(parser, "checkpoints")
    options = parser.parse_args(arguments)
    file = result_file(options.name, options.out)
    torch.set_num_threads(1)
    world = distributed.start(5)
    try:
        rows = [
            measure(preset, stage, options.repeats, options.folder, world)
            for preset in options.presets
            for stage in options.stages
        ]
    finally:
        distributed.stop()
    text = table(HEADER, rows)
    print(text)
    write_result(file, f"{heading('Checkpoints', options)}\n\n{METHOD}\n\n{text}\n")


def measure(preset: str, stage: int, repeats: int, folder: Path | None, world: World) -> list[object]:
    """Measure checkpoints of a model preset at a ZeRO stage, and return a table row."""
    with tempfile.TemporaryDirectory(dir=folder) as run_dir:
        config = RunConfig.model_validate(
            {
                "run": {"dir": run_dir},
                "model": {"preset": preset},
                "data": {"shards": run_dir},
                "training": {"steps": 100, "batch": 1, "zero_stage": stage},
            }
        )
        model = LDARNetForMaskedLM(config.model.build({}))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        groups = parameter_groups(model, config.optimizer)
        engine = Engine(model, groups, EngineOptions.of(config, world), world)
        prepare_optimizer_state(engine)
        store = CheckpointStore(config.run.dir, keep=1)
        state = TrainingState(0, 100, 0, 0, "0" * 64)

        def failed(text: str) -> None:
            raise UserError(text)

        alone = products(lambda: True, 2.0)
        stalls, written, throughputs, memory = [], [], [], []
        with AsyncCheckpointer(config, store, world, state, failed) as checkpointer:
            for step in range(1, repeats + 1):
                before, begin = resident(), time.perf_counter()
                checkpointer.save(engine, state.advanced(step=step))
                stalls.append(time.perf_counter() - begin)
                memory.append(resident() - before)
                throughputs.append(products(lambda step=step: not store.has(step), 60.0) / alone)
                written.append(time.perf_counter() - begin - stalls[-1])
                memory[-1] = max(memory[-1], resident() - before)
                checkpointer.finish()
        size = sum(path.stat().st_size for path in store.path(repeats).iterdir())
    stall, after, throughput = (statistics.median(values) for values in (stalls[1:] or stalls, written, throughputs))
    return [
        preset,
        stage,
        f"{parameters / 1e6:.1f}",
        f"{size / 1e6:.0f}",
        stalls[0],
        stall,
        after,
        f"{max(memory) / parameters:.1f}",
        f"{throughput:.2f}",
    ]


def products(condition: Callable[[], bool], seconds: float) -> float:
    """Run matrix products while `condition()` holds, for at most `seconds`, and return the products per second."""
    matrix, done, begin = torch.ones(384, 384), 0, time.perf_counter()
    while condition() and time.perf_counter() - begin < seconds:
        matrix @ matrix
        done += 1
    return done / (time.perf_counter() - begin)


def resident() -> int:
    """Resident set size of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    run_program(main)
