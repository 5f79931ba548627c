"""Run by each rank: starts that fail on one rank only; each rank writes what it was told, a line a start."""

import errno
import sys
from pathlib import Path

from ldarnet.config import load_config
from ldarnet.data import ShardSet
from ldarnet.errors import UserError
from ldarnet.training import distributed, loop, recorder
from ldarnet.training.run import train_on

config_file, out = sys.argv[1], Path(sys.argv[2])
world = distributed.start(2)
told: list[str] = []


def attempt(*overrides: str) -> None:
    try:
        train_on(world, load_config(config_file, [*overrides]))
        told.append("trained")
    except UserError as error:
        told.append(str(error))


def unreadable(folder: str, **_: object) -> ShardSet:
    raise OSError(errno.EIO, "Input/output error", str(folder))


open_shards, write, loss = ShardSet.open, recorder.MetricsFile.write, loop.micro_step_loss

if not world.is_main:
    ShardSet.open = unreadable
attempt(f"run.dir={out}/unreadable")
ShardSet.open = open_shards


def full(file: recorder.MetricsFile, line: dict) -> None:
    if line["step"] == 3:
        raise OSError(errno.ENOSPC, "No space left on device", str(file.path))
    write(file, line)


recorder.MetricsFile.write = full
attempt(f"run.dir={out}/full", "checkpoint.every=2")
recorder.MetricsFile.write = write

micro_steps = 0


def diverging(*arguments, **named):
    global micro_steps
    micro_steps += 1
    value, totals = loss(*arguments, **named)
    return value * (float("nan") if micro_steps > 4 and not world.is_main else 1.0), totals


for stage in "013":
    for log_every in (1, 100):
        micro_steps = 0
        loop.micro_step_loss = diverging
        attempt(
            f"run.dir={out}/diverged-{stage}-{log_every}",
            f"training.zero_stage={stage}",
            f"training.log_every={log_every}",
            "checkpoint.every=2",
        )

(out / f"told-{world.rank}.txt").write_text("\n".join(told))
distributed.stop()
