"""How long training stands still for a checkpoint, how long writing it goes on, and in what memory.

    python -m benchmarks.checkpoints ldarnet-2m ldarnet-110m

One rank, in a temporary folder on the disk of `--folder`. No GPU has run it yet.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.record import provenance, write_result
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
    "stall, s",
    "written after, s",
    "host memory for it, bytes a parameter",
    "work beside it, relative to work alone",
)
METHOD = """The stall is the call of `AsyncCheckpointer.save`: gathering weights and moments on the host. `Written
after` is from there until the folder stands under its final name, flushed and hashed. Memory is the growth of the
process's resident set from before the call to the highest seen until then, the largest of all repeats. Work is matrix
products on one thread: how many of them are done in a second while the checkpoint is written, relative to those
without one. Medians of `--repeats`."""


def main() -> int:
    """Run the program; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("presets", nargs="+", metavar="PRESET")
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 3], help="ZeRO stages")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write; by default the system's temporary folder")
    parser.add_argument("--name", default="checkpoints")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    world = distributed.start(5)
    try:
        rows = [
            measure(preset, stage, arguments.repeats, arguments.folder, world)
            for preset in arguments.presets
            for stage in arguments.stages
        ]
        text = table(HEADER, rows)
        command = f"python -m benchmarks.checkpoints {shlex.join(sys.argv[1:])}"
        file = write_result(arguments.name, f"# Checkpoints\n\n{provenance(command)}\n\n{METHOD}\n\n{text}\n")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        distributed.stop()
    print(f"{text}\n\n{file}")
    return 0


def measure(preset: str, stage: int, repeats: int, folder: Path | None, world: World) -> list[object]:
    """A row of the table."""
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
        stalls, written, shares, memory = [], [], [], []
        with AsyncCheckpointer(config, store, world, state, failed) as checkpointer:
            for step in range(1, repeats + 1):
                before, begin = resident(), time.perf_counter()
                checkpointer.save(engine, state.advanced(step=step))
                stalls.append(time.perf_counter() - begin)
                memory.append(resident() - before)
                shares.append(products(lambda step=step: not store.has(step), 60.0) / alone)
                written.append(time.perf_counter() - begin - stalls[-1])
                memory[-1] = max(memory[-1], resident() - before)
                checkpointer.finish()
        size = sum(path.stat().st_size for path in store.path(repeats).iterdir())
    stall, after, share = (statistics.median(values) for values in (stalls, written, shares))
    return [
        preset,
        stage,
        f"{parameters / 1e6:.1f}",
        f"{size / 1e6:.0f}",
        stall,
        after,
        f"{max(memory) / parameters:.1f}",
        f"{share:.2f}",
    ]


def products(go_on: Callable[[], bool], most: float) -> float:
    """Matrix products a second while `go_on()` holds, for at most so many seconds."""
    matrix, done, begin = torch.ones(384, 384), 0, time.perf_counter()
    while go_on() and time.perf_counter() - begin < most:
        matrix @ matrix
        done += 1
    return done / (time.perf_counter() - begin)


def resident() -> int:
    """Bytes of memory that the process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
