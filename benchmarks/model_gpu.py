"""How fast LDARNet trains on a GPU, where the time goes, and whether every kernel is right there.

    python -m benchmarks.model_gpu

It takes less than eight minutes on one GPU of a data centre and leaves a Markdown file and JSON beside it, written anew
after every measurement. Needed are torch, transformers and this repository. A measurement that fails is written down as
a failure, and the rest goes on in a new process. `--device cpu --quick` tries the program itself on a tiny model.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.gpu_report import Found, report
from benchmarks.measure import FAILURE, Cell, Result, measure
from benchmarks.record import RESULTS, provenance, result_file, write_text
from benchmarks.worker import Worker, WorkerError
from ldarnet.errors import UserError
from ldarnet.io.files import write_json_atomic

DETAIL_LENGTH = 4096
"""Bases in the windows of what is measured at one length only: the published training's."""
DENSE_ATTENTION = {"attention": "torch"}
"""PyTorch's attention over equal windows, which uses its FlashAttention kernel in half precision."""


class Session:
    """Measurements one after the other, within a time.

    Attributes:
        found: what was measured, and what came of it.
    """

    def __init__(self, options: argparse.Namespace, command: str) -> None:
        """Look at the machine.

        Raises:
            UserError: there is a result of this name already.
        """
        self.options, self.file = options, result_file(options.name, options.out)
        self.end = time.monotonic() + 60 * options.minutes
        self.worker, self.found = Worker(), Found()
        try:
            self.made_with = self.worker(provenance, command, seconds=options.limit)
        except WorkerError as error:
            self.made_with = f"- Command: `{command}`\n- The machine could not be examined: {error}"

    def run(self, cells: Iterable[Cell]) -> list[Result]:
        """Measure, and write the files after each measurement; what does not fit is tried with half the windows."""
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
        left = self.end - time.monotonic()
        if left <= 0:
            return {FAILURE: "the time was up"}
        try:
            # The first one tries every kernel, which mamba-ssm compiles in many forms.
            return self.worker(
                measure, cell, seconds=left if cell.kind == "backends" else min(left, self.options.limit)
            )
        except WorkerError as error:
            return {FAILURE: str(error)}

    def _write(self) -> None:
        tree = [{"cell": asdict(cell), "result": result} for cell, result in self.found]
        content = {"made_with": self.made_with.splitlines(), "cells": tree}
        write_json_atomic(self.file.with_suffix(".json"), content, indent=1)
        write_text(self.file, report(self.found, self.options, self.made_with))


def measure_all(session: Session) -> None:
    """Everything, what matters most first."""
    options = session.options
    base = Cell(
        model=options.models[0], length=options.detail, windows=options.bases // options.detail,
        device=options.device, dtype="bfloat16", steps=options.steps, seconds=options.seconds,
    )  # fmt: skip
    (choice,) = session.run([replace(base, kind="backends")])
    session.run(proofs(base, choice))
    session.run([base, replace(base, kind="kernels")])
    if options.device == "cuda":
        session.run([replace(base, kind="waits")])
    small = replace(base, windows=4, kind="agreement", arrangement="published")
    session.run([small])
    session.run(comparisons(options, base))
    session.run(one_at_a_time(base, choice))
    session.run([replace(base, recompute=(0,)), replace(base, recompute=(0, 1))])
    single = replace(base, dtype="float32")
    session.run([*proofs(single, choice), replace(small, dtype="float32")])
    session.run([replace(base, kind="kernels", model=options.models[1], ops=DENSE_ATTENTION)])


def proofs(base: Cell, choice: Result) -> Iterator[Cell]:
    """Every backend of every operation."""
    for operation, names in () if FAILURE in choice else choice.items():
        for name in (names["chosen"], *names["others"]):
            yield replace(base, kind="proof", ops={operation: name})


def comparisons(options: argparse.Namespace, base: Cell) -> Iterator[Cell]:
    """The models at every length, the length of the details first."""
    _, transformer, stack = options.models
    for length in sorted(options.lengths, key=lambda length: length != options.detail):
        at = replace(base, length=length, windows=max(options.bases // length, 1))
        yield from () if at == base else (at,)
        yield replace(at, arrangement="published")
        yield replace(at, model=transformer, ops=DENSE_ATTENTION)
        yield replace(at, model=stack, windows=max(at.windows // 2, 1))  # it keeps three times as much for each base


def one_at_a_time(base: Cell, choice: Result) -> Iterator[Cell]:
    """The model with another backend than the chosen one, for every operation and every backend that can run."""
    for operation, names in () if FAILURE in choice else choice.items():
        for name, obstacle in names["others"].items():
            if not obstacle:
                yield replace(base, ops={operation: name})


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the training of LDARNet on a GPU.")
    add = parser.add_argument
    add("--minutes", type=float, default=8.0, help="after which nothing further is measured")
    add("--limit", type=float, default=90.0, help="seconds after which a measurement is given up")
    add("--bases", type=int, default=131072, help="in a batch; at the longest windows at least one window")
    add("--lengths", nargs="+", type=int, default=[1024, 4096, 16384, 65536], help="bases in a window")
    add("--steps", type=int, default=10, help="timed in each measurement, at most")
    add("--seconds", type=float, default=6.0, help="after which a measurement begins no further step")
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--quick", action="store_true", help="tiny models and batches, to see that the program works")
    add("--name", default="model-gpu", help="of the result; the date is put before it")
    add("--note", default="", help="what a reader must know")
    add("--out", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    options.models, options.detail = ("ldarnet-110m", "transformer-110m", "bimamba2-110m"), DETAIL_LENGTH
    if options.quick:
        options.models, options.detail = ("tiny", "transformer-tiny", "bimamba2-tiny"), 64
        options.lengths, options.bases, options.steps = [64, 128], 256, 1
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print where the files are."""
    options = parse(arguments)
    os.environ.setdefault("TRITON_CACHE_AUTOTUNING", "1")  # what one process has tuned serves the next
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
