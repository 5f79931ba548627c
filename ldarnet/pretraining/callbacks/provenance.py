"""Record time, hardware, versions and kernels of every launch in starts.jsonl."""

import platform
from datetime import UTC, datetime
from importlib import metadata

import torch

from ldarnet.io import run_files
from ldarnet.pretraining.callbacks.base import Callback, RunContext, register
from ldarnet.runtime.checkpoint_files import code_commit
from ldarnet.runtime.metrics_file import ALL_STEPS, MetricsFile
from ldarnet.version import __version__


@register(order=90)
class LaunchRecorder(Callback):
    """Appends a line about this launch to starts.jsonl."""

    def on_run_start(self) -> None:
        """Append the line on rank 0.

        Raises:
            UserError: the disk is full; raised on all ranks.
        """
        self.context.world.on_main(lambda: record_launch(self.context))


def record_launch(run: RunContext) -> None:
    """Append time, versions, hardware and kernels of this launch to starts.jsonl."""
    line = {
        "step": run.resumed.step,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "ranks": run.world.size,
        "device": run.world.device_name,
        "zero_stage": run.config.training.zero_stage,
        "ldarnet": __version__,
        "commit": code_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "deepspeed": metadata.version("deepspeed"),
        "kernels": run.inputs.kernels,
    }
    file = MetricsFile(run.config.run.dir, ALL_STEPS, run_files.LAUNCHES, run.warn)
    file.write(line)
    file.close()
