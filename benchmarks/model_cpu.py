"""Measure LDARNet training on a CPU: throughput and memory, compared with other implementations of the same network.

    python -m benchmarks.model_cpu

Every measurement runs in a new process; timeouts and out-of-memory errors are recorded. In each round, every
implementation runs one step. Step times are compared only within a round, because the speed of a machine may drift. The
losses and gradients of all implementations must be equal within a tolerance.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.baselines import ARRANGEMENTS, CONFIGURATIONS
from benchmarks.measure import FAILURE, Cell, Result, begin, finish, step
from benchmarks.record import ProgramParser, add_result_options, page, provenance, result_file, run_program, write_text
from benchmarks.worker import Worker, WorkerError, memory_limit
from ldarnet.errors import UserError
from ldarnet.io.files import write_json_atomic
from ldarnet.markdown import table

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-3
MEMORY_LENGTH = 4096

Found = list[tuple[Cell, Result]]


def groups(options: argparse.Namespace) -> Iterator[list[Cell]]:
    """Yield groups of cells to interleave.

    A group has all implementations of one model at one length, or one model with activation checkpointing
    of different stages.
    """

    def cell(model: str, length: int, arrangement: str = "ours", checkpointed: tuple[int, ...] = ()) -> Cell:
        return Cell(
            model=model,
            arrangement=arrangement,
            length=length,
            windows=max(options.bases // length, 1),
            threads=options.threads,
            checkpointed=checkpointed,
            steps=options.steps,
            seconds=options.seconds,
        )

    for model in options.models:
        for length in options.lengths:
            yield [cell(model, length, arrangement) for arrangement in ARRANGEMENTS]
    for model in options.models:
        stages = range(CONFIGURATIONS[model]().num_stages)
        length = min(MEMORY_LENGTH, max(options.lengths))
        yield [
            cell(model, length, checkpointed=checkpointed) for checkpointed in dict.fromkeys(((), (0,), tuple(stages)))
        ]


def measure_interleaved(cells: Sequence[Cell], limit: float, make_worker: Callable[[], Worker]) -> Found:
    """Run every cell in its own process. In each round, every cell runs one step; the order alternates between rounds.

    Args:
        cells: cells with equal `steps` and `seconds`.
        limit: timeout in seconds for building a model, for each step, and for collecting the results.
        make_worker: creates the worker process of a cell.
    """
    workers = {cell: make_worker() for cell in cells}
    failed: dict[Cell, Result] = {}

    def ask(function: Callable[[Cell], Any], cell: Cell) -> Any:
        if cell in failed:
            return failed[cell]
        try:
            return workers[cell](function, cell, seconds=limit)
        except WorkerError as error:
            return failed.setdefault(cell, {FAILURE: str(error)})

    try:
        for cell in cells:
            ask(begin, cell)
        start, limit_all = time.perf_counter(), len(cells) * cells[0].seconds
        for number in range(cells[0].steps):
            if number and time.perf_counter() - start > limit_all:
                break
            for cell in cells[:: -1 if number % 2 else 1]:
                ask(step, cell)
        return [(cell, ask(finish, cell)) for cell in cells]
    finally:
        for worker in workers.values():
            worker.close()


def differs(result: Result) -> bool:
    """Whether loss or gradients differ from those of implementation ``ours`` by more than the tolerance."""
    loss, gradients = (result.get(key, 0.0) for key in ("loss_difference", "gradient_difference"))
    return loss > LOSS_TOLERANCE or gradients > GRADIENT_TOLERANCE


def report(compared: Found, checkpointed: Found, options: argparse.Namespace, made_with: str) -> str:
    """Render the results file."""
    sections = {"Made with": made_with, "Method": _method(compared, options)}
    sections["Equivalence of the implementations"] = _agreement(compared + checkpointed)
    sections |= {f"Training {model}": _speed(compared, model) for model in options.models}
    sections["Activation checkpointing"] = _memory(checkpointed)
    return page(f"Training on a CPU: {', '.join(options.models)}", sections, options.note)


def _method(found: Found, options: argparse.Namespace) -> str:
    source = next((result["source"] for _, result in found if "source" in result), "nothing was measured")
    threads = options.threads or torch.get_num_threads()
    return (
        f"Steps of forward, backward and AdamW in fp32 on {threads} thread{'s' * (threads != 1)}, on batches of "
        f"{options.bases:,} bases or one longer window ({source}; masked as in pretraining). Subnormal numbers are "
        "flushed to zero. The steps of all implementations are interleaved; each implementation runs in "
        f"its own process, with one warm-up step, then up to {options.steps} steps or {options.seconds:.0f} s. "
        "`speedup of ours` compares steps of the same round (median over rounds, with quartiles). Weights are "
        "untrained; the router is calibrated to about four bases per chunk.\n\n"
        "- `ours`: the model unchanged.\n"
        "- `published`: the same kernels, but both projections of every BiMamba-2 layer are computed once per "
        "direction, inputs and outputs are reversed in memory, and chunks are padded to the longest sequence in the "
        "batch. Unlike the published code, it does not need the extra memory of two separate passes, but it writes the "
        "gradient of in_proj's input one more time.\n"
        "- `transformers`: transformers' Mamba-2 mixer in PyTorch, run in both directions, with the same weights in "
        "the same hierarchy and padded chunks. It works in blocks of 256 positions; `transformers-64` uses blocks of "
        "64, which are faster here.\n\n"
        "FLOPs are those of the executed matrix products in the forward and backward pass, including recomputation, as "
        "counted by PyTorch. Peak memory is that of the process; bytes per base are its growth during the steps."
    )


def _agreement(found: Found) -> str:
    compared = [(cell, result) for cell, result in found if "loss_difference" in result]
    differing = [f"{cell.model}, {cell.arrangement}, L = {cell.length:,}" for cell, r in compared if differs(r)]
    worst = [max((r[key] for _, r in compared), default=0.0) for key in ("loss_difference", "gradient_difference")]
    verdict = f"**Different**: {'; '.join(differing)}" if differing else f"Equal in all {len(compared)} comparisons"
    return (
        f"{verdict}. Maximum relative difference from `ours` with the same weights and batch: {worst[0]:.1e} for the "
        f"loss, {worst[1]:.1e} for the gradients (norm of the difference relative to the norm, over all parameters)."
    )


def _speed(found: Found, model: str) -> str:
    rows: list[Sequence[object]] = []
    measured = [(cell, result) for cell, result in found if cell.model == model]
    ours = {cell.length: result for cell, result in measured if cell.arrangement == "ours" and FAILURE not in result}
    for cell, result in measured:
        start = [f"{cell.length:,}", cell.windows, cell.arrangement]
        if FAILURE in result:
            rows.append([*start, result[FAILURE], *[""] * 8])
            continue
        speed, own = result["bases_per_second"], ours.get(cell.length)
        rows.append([
            *start, f"{speed['median']:,.0f}", f"{speed['best']:,.0f}",
            _speedup(own, result) if own and own is not result else "",
            f"{result['flops_per_base'] / 1e6:.2f}",
            f"{result['flops_per_base'] / own['flops_per_base']:.2f}" if own else "",
            f"{result['peak_bytes'] / 2**20:,.0f}", f"{result['bytes_per_base'] / 1e3:.1f}",
            *(f"{result[key]:.0e}" if key in result else "" for key in ("loss_difference", "gradient_difference")),
        ])  # fmt: skip
    header = [
        "bases per window", "windows", "implementation", "bases/s (median)", "(best)", "speedup of ours",
        "MFLOP per base", "relative to ours", "peak MiB", "kB per base", "loss difference", "gradient difference",
    ]  # fmt: skip
    return table(header, rows) + _chunks(measured)


def _speedup(own: Result, other: Result) -> str:
    """Format the speedup of `own` over `other`: median and quartiles of the time ratios of all rounds."""
    ratios = [b / a for a, b in zip(own["seconds"], other["seconds"], strict=True)]
    low, middle, high = (torch.tensor(ratios).quantile(q).item() for q in (0.25, 0.5, 0.75))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _chunks(measured: Found) -> str:
    chunks = {
        cell.length: (result["bases_per_chunk"], result["max_chunks_over_mean"])
        for cell, result in measured
        if result.get("bases_per_chunk")
    }
    return "".join(
        f"\n\nAt {length:,} bases: {ratios[0]:.2f} bases per chunk; the window with the most chunks has "
        f"{(most[0] - 1):.0%} more chunks than the mean window, which is the overhead of padding."
        for length, (ratios, most) in sorted(chunks.items())
    )


def _memory(found: Found) -> str:
    rows: list[Sequence[object]] = []
    for cell, result in found:
        stages = ", ".join(map(str, cell.checkpointed)) or "none"
        if FAILURE in result:
            rows.append([cell.model, f"{cell.length:,}", stages, result[FAILURE], ""])
        else:
            speed = f"{result['bases_per_second']['median']:,.0f}"
            rows.append([cell.model, f"{cell.length:,}", stages, f"{result['bytes_per_base'] / 1e3:.1f}", speed])
    return table(["model", "bases per window", "checkpointed stages", "kB per base", "bases/s (median)"], rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ProgramParser("model_cpu", __doc__)
    add = parser.add_argument
    add("--models", nargs="+", choices=list(CONFIGURATIONS), default=["ldarnet-2m", "bimamba2-128"], help="models")
    add("--lengths", nargs="+", type=int, default=[1024, 4096, 16384], help="bases per window")
    add("--bases", type=int, default=4096, help="bases per batch; a batch has at least one window")
    add("--threads", type=int, default=0, help="CPU threads (default: PyTorch's default)")
    add("--steps", type=int, default=12, help="maximum timed steps per implementation")
    add("--seconds", type=float, default=25.0, help="approximate time limit per implementation, in seconds")
    add("--limit", type=float, default=120.0, help="timeout of a step in seconds")
    add("--quick", action="store_true", help="test this program with tiny models and batches in one process")
    add_result_options(parser, "model-cpu")
    options = parser.parse_args(arguments)
    if options.quick:
        options.models, options.lengths, options.bases = ["tiny", "bimamba2-tiny"], [64, 128], 256
        options.steps = 2
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all measurements, update the results files after each group, and print the path of the report."""
    options = parse(arguments)
    file = result_file(options.name, options.out)
    made_with = provenance(options.command)
    worker = Worker(memory_limit())
    found: dict[bool, Found] = {False: [], True: []}
    everything: Found = []
    for cells in groups(options):
        measured = measure_interleaved(
            cells, options.limit, lambda: worker if options.quick else Worker(memory_limit())
        )
        found[any(cell.checkpointed for cell in cells)] += measured
        everything = found[False] + found[True]
        tree = [{"cell": asdict(cell), "result": result} for cell, result in everything]
        write_json_atomic(file.with_suffix(".json"), {"made_with": made_with.splitlines(), "cells": tree}, indent=1)
        write_text(file, report(found[False], found[True], options, made_with))
        for cell, result in measured:
            outcome = result[FAILURE] if FAILURE in result else f"{result['bases_per_second']['median']:,.0f} bases/s"
            print(
                f"{cell.model} {cell.arrangement} L={cell.length} checkpointed={cell.checkpointed}: {outcome}",
                flush=True,
            )
    print(f"wrote {file}")
    if any(differs(result) for _, result in everything):
        raise UserError(f"{file}: an implementation does not compute the same function; see section 'Equivalence'")


if __name__ == "__main__":
    run_program(main)
