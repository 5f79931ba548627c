"""Run by each rank: runs that fail on one rank only; each rank writes one line per run."""

import errno
import json
import sys
from pathlib import Path

from ldarnet.config import load_config
from ldarnet.data import ShardSet
from ldarnet.errors import UserError
from ldarnet.io.run_files import METRICS
from ldarnet.pretraining.run import train_on
from ldarnet.runtime import distributed
from ldarnet.runtime.metrics_file import MetricsFile

config_file, out = sys.argv[1], Path(sys.argv[2])
world = distributed.start(2)
messages: list[str] = []


def attempt(*overrides: str) -> None:
    try:
        train_on(world, load_config(config_file, [*overrides]))
        messages.append("trained")
    except UserError as error:
        messages.append(f"{type(error).__name__}: {error}")


def unreadable(folder: str, **_: object) -> ShardSet:
    raise OSError(errno.EIO, "Input/output error", str(folder))


open_shards, flush = ShardSet.open, MetricsFile.flush

if not world.is_main:
    ShardSet.open = unreadable
attempt(f"run.dir={out}/unreadable")
ShardSet.open = open_shards


def full_for_a_while(file: MetricsFile) -> None:
    pending = file._pending.splitlines()
    if pending and file.path.name == METRICS and 3 <= json.loads(pending[-1])["step"] <= 6:
        raise OSError(errno.ENOSPC, "No space left on device", str(file.path))
    flush(file)


def full(file: MetricsFile) -> None:
    if file.path.name == METRICS:
        raise OSError(errno.ENOSPC, "No space left on device", str(file.path))
    flush(file)


MetricsFile.flush = full_for_a_while
attempt(f"run.dir={out}/full-for-a-while")
MetricsFile.flush = full
attempt(f"run.dir={out}/full")
MetricsFile.flush = flush

(out / f"messages-{world.rank}.txt").write_text("\n".join(messages))
distributed.stop()
