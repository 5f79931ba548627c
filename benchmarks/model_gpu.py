"""Measure LDARNet training on a GPU: throughput, kernel times, and verification of every kernel.

    python -m benchmarks.model_gpu

Stops after eight minutes (`--minutes`). Writes a Markdown and a JSON file, which are updated after every measurement.
Needs torch, transformers and this repository. A failed measurement is recorded, and the measurements after it run in a
new process. `--device cpu --quick` tests the program itself on a tiny model.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace

from benchmarks.gpu_report import Found, report
from benchmarks.measure import FAILURE, Cell, Result, measure
from benchmarks.record import add_result_options, provenance, result_file, write_text
from benchmarks.worker import Worker, WorkerError
from ldarnet.errors import UserError
from ldarnet.io.files import write_json_atomic

DETAIL_LENGTH = 4096
"""Bases per window in measurements at a single length; the published model was trained at this length."""
DENSE_ATTENTION = {"attention": "torch"}
"""PyTorch's attention, which uses FlashAttention for windows of equal length in half precision."""


class Session:
    """Runs measurements one by one within a time limit.

    Attributes:
        found: completed cells and their results.
    """

    def __init__(self, options: argparse.Namespace, command: str) -> None:
        """Record the provenance of the results (hardware, versions, commit).

        Raises:
            UserError: the results file exists.
        """
        self.options, self.file = options, result_file(options.name, options.out)
        self.end = time.monotonic() + 60 * options.minutes
        self.worker, self.found = Worker(), Found()
        try:
            self.made_with = self.worker(provenance, command, seconds=options.limit)
        except WorkerError as error:
            self.made_with = f"- Command: `{command}`\n- Hardware and versions: unknown ({error})"

    def run(self, cells: Iterable[Cell]) -> list[Result]:
        """Measure cells and update the results files after each. If memory runs out, retry with half the windows."""
        results = []
        for cell in cells:
            result = self._measure(cell)
            while "OutOfMemory" in result.get(FAILURE, "") and cell.windows > 1:
                cell = replace(cell, windows=cell.windows // 2)
                result = self._measure(cell)
            results.append(result)
            self.found.append((cell, result))
            self._write()
            outcome = result.get(FAILURE, "done")
            print(f"{cell.kind} {cell.model} {cell.arrangement} L={cell.length} {cell.ops}: {outcome}", flush=True)
        return results

    def _measure(self, cell: Cell) -> Result:
        remaining = self.end - time.monotonic()
        if remaining <= 0:
            return {FAILURE: "time limit reached"}
        try:
            # The first cell, of kind "backends", compiles all kernels; those of mamba-ssm have many variants.
            return self.worker(
                measure, cell, seconds=remaining if cell.kind == "backends" else min(remaining, self.options.limit)
            )
        except WorkerError as error:
            return {FAILURE: str(error)}

    def _write(self) -> None:
        tree = [{"cell": asdict(cell), "result": result} for cell, result in self.found]
        content = {"made_with": self.made_with.splitlines(), "cells": tree}
        write_json_atomic(self.file.with_suffix(".json"), content, indent=1)
        write_text(self.file, report(self.found, self.options, self.made_with))


def measure_all(session: Session) -> None:
    """Run all measurements, the most important ones first."""
    options = session.options
    base = Cell(
        model=options.models[0], length=options.detail, windows=options.bases // options.detail,
        device=options.device, dtype="bfloat16", steps=options.steps, seconds=options.seconds,
    )  # fmt: skip
    (choice,) = session.run([replace(base, kind="backends")])
    session.run(verifications(base, choice))
    session.run([base, replace(base, kind="kernels")])
    if options.device == "cuda":
        session.run([replace(base, kind="synchronization")])
    small = replace(base, windows=4, kind="agreement", arrangement="published")
    session.run([small])
    session.run(comparisons(options, base))
    session.run(one_at_a_time(base, choice))
    session.run([replace(base, checkpointed=(0,)), replace(base, checkpointed=(0, 1))])
    single = replace(base, dtype="float32")
    session.run([*verifications(single, choice), replace(small, dtype="float32")])
    session.run([replace(base, kind="kernels", model=options.models[1], ops=DENSE_ATTENTION)])


def verifications(base: Cell, choice: Result) -> Iterator[Cell]:
    """Yield a verification cell for every backend of every operation."""
    for operation, names in () if FAILURE in choice else choice.items():
        for name in (names["selected"], *names["others"]):
            yield replace(base, kind="verification", ops={operation: name})


def comparisons(options: argparse.Namespace, base: Cell) -> Iterator[Cell]:
    """Yield training cells of all models at every length (`options.detail` first), except `base` itself."""
    _, transformer, stack = options.models
    for length in sorted(options.lengths, key=lambda length: length != options.detail):
        at = replace(base, length=length, windows=max(options.bases // length, 1))
        yield from () if at == base else (at,)
        yield replace(at, arrangement="published")
        yield replace(at, model=transformer, ops=DENSE_ATTENTION)
        yield replace(at, model=stack, windows=max(at.windows // 2, 1))  # needs 3x the activation memory per base


def one_at_a_time(base: Cell, choice: Result) -> Iterator[Cell]:
    """For every supported backend that is not selected automatically, yield a copy of `base` that uses it."""
    for operation, names in () if FAILURE in choice else choice.items():
        for name, unsupported_reason in names["others"].items():
            if not unsupported_reason:
                yield replace(base, ops={operation: name})


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Measure LDARNet training on a GPU.")
    add = parser.add_argument
    add("--minutes", type=float, default=8.0, help="time limit for all measurements, in minutes (default: %(default)s)")
    add("--limit", type=float, default=90.0, help="timeout of a measurement in seconds (default: %(default)s)")
    add(
        "--bases",
        type=int,
        default=131072,
        help="bases per batch; a batch has at least one window (default: %(default)s)",
    )
    add("--lengths", nargs="+", type=int, default=[1024, 4096, 16384, 65536], help="bases per window")
    add("--steps", type=int, default=10, help="maximum timed steps per measurement (default: %(default)s)")
    add(
        "--seconds",
        type=float,
        default=6.0,
        help="time limit in seconds for the timed steps of a measurement (default: %(default)s)",
    )
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--quick", action="store_true", help="test this program with tiny models and batches")
    add_result_options(parser, "model-gpu")
    options = parser.parse_args(arguments)
    options.models, options.detail = ("ldarnet-110m", "transformer-110m", "bimamba2-110m"), DETAIL_LENGTH
    if options.quick:
        options.models, options.detail = ("tiny", "transformer-tiny", "bimamba2-tiny"), 64
        options.lengths, options.bases, options.steps = [64, 128], 256, 1
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all measurements and print the path of the results file."""
    options = parse(arguments)
    os.environ.setdefault("TRITON_CACHE_AUTOTUNING", "1")  # reuse autotuning results across processes
    command = "python -m benchmarks.model_gpu " + shlex.join(sys.argv[1:] if arguments is None else arguments)
    try:
        session = Session(options, command.strip())
    except UserError as error:
        sys.exit(f"error: {error}")
    try:
        measure_all(session)
    finally:
        session.worker.close()
    print(session.file)


if __name__ == "__main__":
    main()
