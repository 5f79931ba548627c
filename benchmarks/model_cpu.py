"""How fast LDARNet trains on a CPU and what memory it takes, against the same function computed in other ways.

    python -m benchmarks.model_cpu

Every measurement is made in a fresh process; what takes too long or too much memory is written down as such. A
machine's own speed drifts, so the arrangements take their steps in turn and are compared step by step. That they have
equal losses and gradients is checked on the very batches that are measured.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.baselines import ARRANGEMENTS, CONFIGURATIONS
from benchmarks.measure import FAILURE, Cell, Result, begin, finish, step
from benchmarks.record import RESULTS, provenance, result_file, write_text
from benchmarks.worker import Worker, WorkerError, most_memory
from ldarnet.errors import UserError
from ldarnet.io.files import write_json_atomic
from ldarnet.markdown import table

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-3
MEMORY_LENGTH = 4096

Found = list[tuple[Cell, Result]]


def groups(options: argparse.Namespace) -> Iterator[list[Cell]]:
    """What is measured together: the arrangements at each length, then what is computed again at one length."""

    def cell(model: str, length: int, arrangement: str = "ours", recompute: tuple[int, ...] = ()) -> Cell:
        return Cell(
            model=model,
            arrangement=arrangement,
            length=length,
            windows=max(options.bases // length, 1),
            threads=options.threads,
            recompute=recompute,
            steps=options.steps,
            seconds=options.seconds,
        )

    for model in options.models:
        for length in options.lengths:
            yield [cell(model, length, arrangement) for arrangement in ARRANGEMENTS]
    for model in options.models:
        stages = range(CONFIGURATIONS[model]().num_stages)
        length = min(MEMORY_LENGTH, max(options.lengths))
        yield [cell(model, length, recompute=recompute) for recompute in dict.fromkeys(((), (0,), tuple(stages)))]


def measured_in_turn(cells: Sequence[Cell], limit: float, make_worker: Callable[[], Worker]) -> Found:
    """Take the steps of all cells in turn, there and back again, each cell in a process of its own.

    Args:
        cells: what is measured together; they have the same steps and seconds.
        limit: seconds after which a single step, or what is counted after the last, is given up.
        make_worker: starts a process.
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
        start, most = time.perf_counter(), len(cells) * cells[0].seconds
        for turn in range(cells[0].steps):
            if turn and time.perf_counter() - start > most:
                break
            for cell in cells[:: -1 if turn % 2 else 1]:
                ask(step, cell)
        return [(cell, ask(finish, cell)) for cell in cells]
    finally:
        for worker in workers.values():
            worker.close()


def differs(result: Result) -> bool:
    """Whether loss or gradients were compared with those of our arrangement, and are others."""
    loss, gradients = (result.get(key, 0.0) for key in ("loss_difference", "gradient_difference"))
    return loss > LOSS_TOLERANCE or gradients > GRADIENT_TOLERANCE


def report(compared: Found, recomputed: Found, options: argparse.Namespace, made_with: str) -> str:
    """The file as Markdown."""
    sections = {"Made with": made_with, "What was measured": _question(compared, options)}
    if options.note:
        sections = {"Note": options.note} | sections
    sections["Are they the same function?"] = _agreement(compared + recomputed)
    sections |= {f"Training {model}": _speed(compared, model) for model in options.models}
    sections["Memory, with layers computed again in the backward pass"] = _memory(recomputed)
    title = f"Training on a CPU: {', '.join(options.models)}"
    return f"# {title}\n\n" + "\n".join(f"## {name}\n\n{text}\n" for name, text in sections.items())


def _question(found: Found, options: argparse.Namespace) -> str:
    source = next((result["source"] for _, result in found if "source" in result), "nothing was measured")
    threads = options.threads or torch.get_num_threads()
    return (
        f"Steps of forward, backward and AdamW in fp32 on {threads} thread(s), on batches of {options.bases:,} bases "
        f"or one longer window ({source}; masked as in pretraining); subnormal numbers count as zero for all. The "
        f"arrangements take their steps in turn, each in a process of its own: one that is not counted, then up to "
        f"{options.steps} or as many as fit in {options.seconds:.0f} s each. `ours is faster by` compares the steps of "
        "a turn; it is the median over the turns, with the quartiles. Weights are untrained, with the router set to "
        "begin a chunk at about every fourth base.\n\n"
        "- `ours`: the model as it is.\n"
        "- `published`: the same kernels, but both projections of every BiMamba-2 layer computed for each direction, "
        "inputs and outputs reversed in memory, and the chunks of a batch padded to its longest sequence. What two "
        "separate passes would keep in memory besides is not counted against it, and the gradient of in_proj's "
        "input is written once more than they would.\n"
        "- `transformers`: transformers' Mamba-2 mixer in PyTorch, run in both directions, with the same weights in "
        "the same hierarchy; chunks padded. It works in blocks of 256 positions; `transformers-64` is the same in "
        "blocks of 64, with which it is faster here.\n\n"
        "Operations are those of matrix products as executed, counted by PyTorch in forward and backward; what a "
        "kernel computes again counts. Peak memory is the process's; bytes per base are what it grew by during the "
        "steps."
    )


def _agreement(found: Found) -> str:
    compared = [(cell, result) for cell, result in found if "loss_difference" in result]
    differing = [f"{cell.model}, {cell.arrangement}, L = {cell.length:,}" for cell, r in compared if differs(r)]
    worst = [max((r[key] for _, r in compared), default=0.0) for key in ("loss_difference", "gradient_difference")]
    verdict = f"**No**: {'; '.join(differing)}" if differing else f"Yes, in all {len(compared)} comparisons"
    return (
        f"{verdict}. Largest relative differences from our arrangement with the same weights and batch: {worst[0]:.1e} "
        f"of the loss, {worst[1]:.1e} of the gradients (norm of the difference over norm, all parameters together)."
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
            _faster(own, result) if own and own is not result else "",
            f"{result['flops_per_base'] / 1e6:.2f}",
            f"{result['flops_per_base'] / own['flops_per_base']:.2f}" if own else "",
            f"{result['peak_bytes'] / 2**20:,.0f}", f"{result['bytes_per_base'] / 1e3:.1f}",
            *(f"{result[key]:.0e}" if key in result else "" for key in ("loss_difference", "gradient_difference")),
        ])  # fmt: skip
    header = [
        "bases in a window", "windows", "arrangement", "bases/s (median)", "(best)", "ours is faster by",
        "MFLOP per base", "times ours", "peak MiB", "kB per base", "loss differs by", "gradients by",
    ]  # fmt: skip
    return table(header, rows) + _chunks(measured)


def _faster(own: Result, other: Result) -> str:
    """How many times the speed of another arrangement ours has, turn by turn: the median and the quartiles."""
    ratios = [b / a for a, b in zip(own["seconds"], other["seconds"], strict=True)]
    low, middle, high = (torch.tensor(ratios).quantile(share).item() for share in (0.25, 0.5, 0.75))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _chunks(measured: Found) -> str:
    seen = {
        cell.length: (result["bases_per_chunk"], result["most_chunks_over_mean"])
        for cell, result in measured
        if result.get("bases_per_chunk")
    }
    return "".join(
        f"\n\nAt {length:,} bases: {ratios[0]:.2f} bases per chunk, and {(most[0] - 1):.0%} more chunks in the window "
        "that has most than on average, which is what padding adds."
        for length, (ratios, most) in sorted(seen.items())
    )


def _memory(found: Found) -> str:
    rows: list[Sequence[object]] = []
    for cell, result in found:
        again = ", ".join(map(str, cell.recompute)) or "none"
        if FAILURE in result:
            rows.append([cell.model, f"{cell.length:,}", again, result[FAILURE], ""])
        else:
            speed = f"{result['bases_per_second']['median']:,.0f}"
            rows.append([cell.model, f"{cell.length:,}", again, f"{result['bytes_per_base'] / 1e3:.1f}", speed])
    return table(["model", "bases in a window", "stages computed again", "kB per base", "bases/s (median)"], rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the training of LDARNet on a CPU.")
    add = parser.add_argument
    add("--models", nargs="+", choices=list(CONFIGURATIONS), default=["ldarnet-2m", "bimamba2-128"])
    add("--lengths", nargs="+", type=int, default=[1024, 4096, 16384], help="bases in a window")
    add("--bases", type=int, default=4096, help="in a batch, if a window is no longer")
    add("--threads", type=int, default=0, help="that PyTorch computes with; by default as many as it chooses")
    add("--steps", type=int, default=12, help="timed of each arrangement, at most")
    add("--seconds", type=float, default=25.0, help="that the steps of an arrangement take, about, at most")
    add("--limit", type=float, default=120.0, help="seconds after which a step is given up")
    add("--quick", action="store_true", help="tiny models and batches in one process, to see that everything works")
    add("--name", default="model-cpu", help="of the result; the date is put before it")
    add("--note", default="", help="what a reader must know")
    add("--out", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    if options.quick:
        options.models, options.lengths, options.bases = ["tiny", "bimamba2-tiny"], [64, 128], 256
        options.steps = 2
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the files after every measurement, and print where they are."""
    options = parse(arguments)
    command = "python -m benchmarks.model_cpu " + shlex.join(sys.argv[1:] if arguments is None else arguments)
    try:
        file = result_file(options.name, options.out)
    except UserError as error:
        sys.exit(f"error: {error}")
    made_with = provenance(command.strip())
    worker = Worker(most_memory())
    found: dict[bool, Found] = {False: [], True: []}
    everything: Found = []
    for cells in groups(options):
        measured = measured_in_turn(cells, options.limit, lambda: worker if options.quick else Worker(most_memory()))
        found[any(cell.recompute for cell in cells)] += measured
        everything = found[False] + found[True]
        tree = [{"cell": asdict(cell), "result": result} for cell, result in everything]
        write_json_atomic(file.with_suffix(".json"), {"made_with": made_with.splitlines(), "cells": tree}, indent=1)
        write_text(file, report(found[False], found[True], options, made_with))
        for cell, result in measured:
            outcome = result[FAILURE] if FAILURE in result else f"{result['bases_per_second']['median']:,.0f} bases/s"
            print(f"{cell.model} {cell.arrangement} L={cell.length} recompute={cell.recompute}: {outcome}", flush=True)
    print(file)
    if any(differs(result) for _, result in everything):
        sys.exit("error: an arrangement does not compute the same function; see the file")


if __name__ == "__main__":
    main()
