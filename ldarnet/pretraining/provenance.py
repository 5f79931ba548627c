"""starts.jsonl: when a run was started, on what and with which versions, a line each time."""

import json
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from ldarnet.config import RunConfig
from ldarnet.io import run_files
from ldarnet.io.files import space_errors
from ldarnet.runtime.checkpoint_files import code_commit
from ldarnet.runtime.distributed import World
from ldarnet.version import __version__


def record_start(config: RunConfig, step: int, kernels: dict[str, str], world: World) -> None:
    """Append a line for a start after `step` completed steps; rank 0 only.

    Raises:
        UserError: the device is full.
    """
    line = {
        "step": step,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "ranks": world.size,
        "device": world.device_name,
        "zero_stage": config.training.zero_stage,
        "ldarnet": __version__,
        "commit": code_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "deepspeed": metadata.version("deepspeed"),
        "kernels": kernels,
    }
    path = Path(config.run.dir) / run_files.LAUNCHES
    with space_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
