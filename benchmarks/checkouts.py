"""Training steps of another checkout of this project, to time them alternately with those of this one."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure import Cell
from ldarnet.errors import UserError
from ldarnet.markdown import table

STEPS = """\
import json, resource, sys, time
import torch
from benchmarks.measure import Cell, Workload

torch.set_num_threads(1)
torch.set_flush_denormal(True)
workload = Workload(Cell(**json.loads(sys.argv[1])))
workload.step()
for _ in sys.stdin:
    before = time.process_time()
    workload.step()
    print(time.process_time() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
"""
"""Program that runs a step for each line of its input, and prints its CPU seconds and the peak memory of the process.

It uses only names that exist in earlier commits as well."""


class CheckoutSteps:
    """Training steps of a cell, run by the code of a checkout in a process of its own.

    Attributes:
        seconds: CPU seconds of each step.
        peak: peak memory of the process, in KiB.
    """

    def __init__(self, checkout: Path, cell: Cell) -> None:
        """Build the model and run a warm-up step; the process uses one thread.

        Raises:
            UserError: the folder is not a checkout of this project, or cannot run a step.
        """
        if not (checkout / "benchmarks" / "measure.py").is_file():  # Python would import the installed project
            raise UserError(f"{checkout}: not a checkout of this project; it must contain benchmarks/measure.py")
        environment = os.environ | {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", STEPS, json.dumps(asdict(cell))]
        self.process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.checkout, self.seconds, self.peak = checkout, [], 0
        self.step()
        self.seconds.clear()

    def step(self) -> None:
        """Run and time a step.

        Raises:
            UserError: the checkout cannot run it.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(file=self.process.stdin, flush=True)
            seconds, peak = self.process.stdout.readline().split()
        except (OSError, ValueError):
            raise UserError(f"{self.checkout}: cannot run a training step; see the error above") from None
        self.seconds.append(float(seconds))
        self.peak = int(peak)


@contextmanager
def opened(checkout: Path, cell: Cell) -> Iterator[CheckoutSteps]:
    """Steps of a checkout; its process ends with the context."""
    steps = CheckoutSteps(checkout, cell)
    try:
        yield steps
    finally:
        steps.process.kill()
        steps.process.wait()


def baseline_table(cells: dict[str, Cell], checkout: Path, own: Path) -> str:
    """Speed and peak memory of fp32 steps relative to those of another checkout, from alternating steps."""
    rows: list[Sequence[object]] = []
    for name, cell in cells.items():
        with opened(checkout, cell) as before, opened(own, cell) as after:
            start = time.perf_counter()
            while len(after.seconds) < cell.steps and (
                len(after.seconds) < 3 or time.perf_counter() - start < cell.seconds
            ):
                before.step()
                after.step()
        ratios = [old / new for old, new in zip(before.seconds, after.seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        rows.append([
            name, f"{cell.windows} x {cell.length}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}",
            f"{after.peak / before.peak:.2f}", len(ratios),
        ])  # fmt: skip
    return table(["model", "windows", "speed", "quartiles", "peak memory", "rounds"], rows)
