"""Measure a training step on a CPU: share of the matrix-product peak, time by part, effect of bf16 and of threads.

    python -m benchmarks.cpu_step

Everything that is compared is measured alternately, and every number of the report is a ratio or a share, because the
speed of a machine drifts with its load.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.baselines import PRESETS
from benchmarks.checkouts import baseline_table
from benchmarks.gpu_check.speed_page import by_part
from benchmarks.measure import Cell, Result, Workload, counted_flops, kernels, masked, real_windows
from benchmarks.record import (
    ROOT,
    ProgramParser,
    add_result_options,
    commit,
    page,
    provenance,
    result_file,
    run_program,
    write_result,
)
from benchmarks.worker import Worker
from ldarnet.markdown import table

PEAK_SIZE = 1024
"""Rows and columns of the square matrices whose product measures the peak."""
FP32, BF16 = "float32", "bfloat16"
LIMIT_SECONDS = 900.0
POLICIES = ("ACTIVE", "PASSIVE")


def measure_model(cell: Cell) -> Result:
    """Alternate matrix products and training steps in fp32 and bf16 on one thread, then profile a step.

    Returns:
        FLOPs per base, the seconds of each round by what is timed, and the seconds of an fp32 step by operation.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    workload = Workload(cell)
    timed: dict[str, Callable[[], None]] = {}
    for dtype in (FP32, BF16):
        timed[f"product {dtype}"] = _product(dtype)
        timed[f"step {dtype}"] = _step(workload, replace(cell, dtype=dtype))
    for call in timed.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    start = time.perf_counter()
    for number in range(cell.steps):
        if number and time.perf_counter() - start > cell.seconds:
            break
        for name, call in timed.items():
            before = time.process_time()  # of one thread: unlike wall time, almost independent of other programs
            call()
            seconds[name].append(time.process_time() - before)
    workload.cell = cell
    flops = counted_flops(workload)["flops_per_base"] * workload.bases
    return {"flops": flops, "seconds": seconds, "operations": kernels(cell)["operations"], "source": workload.source}


def _product(dtype: str) -> Callable[[], None]:
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE).to(getattr(torch, dtype)) for _ in range(2))

    def multiply() -> None:
        a @ b

    return multiply


def _step(workload: Workload, cell: Cell) -> Callable[[], None]:
    def step() -> None:
        workload.cell = cell
        workload.step()

    return step


def measure_losses(cell: Cell, seed: int) -> tuple[list[float], list[float]]:
    """Losses of `cell.steps` steps of the same training in fp32 and in bf16; every step has other windows."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    ids = real_windows(cell.steps * cell.windows, cell.length)[0]
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    losses: list[list[float]] = []
    weights: dict[str, torch.Tensor] = {}
    for dtype in (FP32, BF16):
        workload = Workload(replace(cell, dtype=dtype))
        weights = weights or workload.weights  # the calibration of the router depends on the precision
        workload.model.load_state_dict(weights)
        for group in workload.optimizer.param_groups:
            group["lr"] = 1e-3
        losses.append([])
        for batch in ids[order].split(cell.windows):
            workload.input_ids, workload.labels = masked(batch)
            workload.optimizer.zero_grad()
            loss = workload.output().loss
            loss.backward()
            workload.optimizer.step()
            losses[-1].append(loss.item())
    return losses[0], losses[1]


def measure_threads(cell: Cell) -> float:
    """Step time with two threads relative to one thread; median over alternating steps."""
    torch.set_flush_denormal(True)
    workload = Workload(cell)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    start = time.perf_counter()
    for number in range(cell.steps + 1):
        for threads, times in seconds.items():
            torch.set_num_threads(threads)
            times.append(workload.seconds(workload.step))
        if number and time.perf_counter() - start > cell.seconds:
            break
    return statistics.median(two / one for one, two in zip(seconds[1][1:], seconds[2][1:], strict=True))


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep this number of cores busy with other processes."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def in_process(function: Callable[..., Any], *arguments: Any, policy: str = "PASSIVE") -> Any:
    """Call a function in a new process with an OpenMP wait policy."""
    worker = Worker()
    os.environ["OMP_WAIT_POLICY"] = policy
    try:
        return worker(function, *arguments, seconds=LIMIT_SECONDS)
    finally:
        worker.close()


def threads_table(cell: Cell, others: Sequence[int]) -> str:
    """Step time with two threads relative to one thread, by wait policy and number of other busy programs."""
    rows = []
    for other in others:
        with busy(other):
            ratios = [in_process(measure_threads, cell, policy=policy) for policy in POLICIES]
        rows.append([other, *(f"{ratio:.2f}" for ratio in ratios)])
    return table(["busy programs added", *POLICIES], rows)


def shares_table(results: dict[str, tuple[Cell, Result]]) -> str:
    """Share of the peak, and speed of bf16 relative to fp32; medians over rounds, from times of the same round."""
    rows = []
    for name, (cell, result) in results.items():
        seconds, flops = result["seconds"], result["flops"]

        def ratio(a: str, b: str, seconds: dict[str, list[float]] = seconds) -> float:
            return statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))

        products = flops / (2 * PEAK_SIZE**3)
        rows.append([
            name, f"{cell.windows} x {cell.length}", f"{flops / cell.windows / cell.length / 1e6:,.1f}",
            f"{products * ratio(f'product {FP32}', f'step {FP32}'):.0%}",
            f"{products * ratio(f'product {BF16}', f'step {BF16}'):.0%}",
            f"{ratio(f'product {FP32}', f'product {BF16}'):.2f}", f"{ratio(f'step {FP32}', f'step {BF16}'):.2f}",
            len(seconds[f"step {FP32}"]),
        ])  # fmt: skip
    header = [
        "model", "windows", "MFLOP per base", "fp32 step, share of fp32 peak", "bf16 step, share of bf16 peak",
        "bf16 product, speed relative to fp32", "bf16 step, speed relative to fp32", "rounds",
    ]  # fmt: skip
    return table(header, rows)


def parts_table(results: dict[str, tuple[Cell, Result]]) -> str:
    """Share of an fp32 step by part."""
    by_model = {name: by_part(result["operations"]) for name, (_, result) in results.items()}
    parts = sorted({part for spent in by_model.values() for part in spent})
    shares = {
        name: {part: spent.get(part, 0.0) / sum(spent.values()) for part in parts} for name, spent in by_model.items()
    }
    parts.sort(key=lambda part: -max(share[part] for share in shares.values()))
    return table(["part", *shares], [[part, *(f"{share[part]:.1%}" for share in shares.values())] for part in parts])


def losses_table(cell: Cell, seeds: int) -> str:
    """Loss of the last quarter of the steps in fp32 and bf16."""
    rows = []
    for seed in range(seeds):
        single, half = in_process(measure_losses, cell, seed)
        last = len(single) - max(len(single) // 4, 1)
        means = [statistics.mean(losses[last:]) for losses in (single, half)]
        largest = max(abs(a - b) for a, b in zip(single, half, strict=True))
        rows.append(
            [
                seed,
                f"{single[0]:.4f}",
                *(f"{mean:.4f}" for mean in means),
                f"{means[1] - means[0]:+.5f}",
                f"{largest:.5f}",
            ]
        )
    return table(["seed", "first loss, fp32", "last quarter, fp32", "bf16", "difference", "largest of a step"], rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ProgramParser("cpu_step", __doc__)
    add = parser.add_argument
    add("--models", nargs="+", choices=PRESETS, default=list(PRESETS[1:]), help="presets")
    add("--length", type=int, default=1024, help="bases per window")
    add("--windows", type=int, default=1, help="windows per batch")
    add("--rounds", type=int, default=10, help="rounds of alternating measurements")
    add("--seconds", type=float, default=40.0, help="time limit of the rounds of a model")
    add("--loss-steps", type=int, default=200, help="steps of the comparison of losses")
    add("--seeds", type=int, default=2, help="seeds of the comparison of losses")
    add("--busy", nargs="*", type=int, default=[0, 1], help="numbers of busy programs to add")
    add("--baseline", type=Path, help="another checkout, whose steps are timed alternately with ours")
    add_result_options(parser, "cpu-step")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all measurements, write the results file, and print its path."""
    options = parse(arguments)
    file = result_file(options.name, options.out)
    load = os.getloadavg()[0]
    cell = Cell(length=options.length, windows=options.windows, steps=options.rounds, seconds=options.seconds)
    results = {}
    for name in options.models:
        one = replace(cell, model=name)
        results[name] = (one, in_process(measure_model, one))
        print(name, flush=True)
    cells = {name: one for name, (one, _) in results.items()}
    small = cells[options.models[0]]
    method = [METHOD.format(source=results[small.model][1]["source"], size=PEAK_SIZE)]
    sections = {
        "Made with": f"{provenance(options.command)}\n- Load average before the start: {load:.1f}",
        "Method": "",
        "Share of the peak": shares_table(results),
        "Time by part, fp32": parts_table(results),
    }
    if options.seeds:
        method.append(LOSS_METHOD.format(model=small.model))
        sections["Loss in bf16"] = losses_table(replace(small, steps=options.loss_steps), options.seeds)
    if options.busy:
        method.append(THREADS_METHOD.format(model=small.model))
        sections["Time on two threads relative to one"] = threads_table(small, options.busy)
    if options.baseline:
        method.append(BASELINE_METHOD.format(commit=commit(options.baseline)))
        sections["Speed relative to the baseline"] = baseline_table(cells, options.baseline, ROOT)
    sections["Method"] = "\n\n".join(method)
    write_result(file, page("Training step on a CPU", sections, options.note))


METHOD = """\
Steps of forward, backward and AdamW on one thread ({source}; masked as in pretraining).
Other programs may have run at the same time. The peak is that of a product of two square matrices of {size} rows. In
each round, one product and one step are timed (CPU time) in fp32 and under bf16 autocast; ratios are medians over
the rounds. FLOPs are those of the executed matrix products, counted by PyTorch. Time by part is that of one profiled
step; time within a custom autograd function belongs to the function."""

LOSS_METHOD = """\
`Loss in bf16`: the same training of {model} from the same weights, on the same windows, in both precisions (small
scale)."""

THREADS_METHOD = """\
`Time on two threads relative to one`: steps of {model} in one process per `OMP_WAIT_POLICY`, alternately on one and
two threads; `ACTIVE` is what OpenMP does by default for some milliseconds, `PASSIVE` is what programs set."""

BASELINE_METHOD = """\
`Speed relative to the baseline`: fp32 steps of the baseline (commit {commit}) and of this commit, alternately, each in
its own process on one thread. The speed is the CPU time of a step of the baseline divided by that of the next step of
this commit: median and quartiles over the rounds."""


if __name__ == "__main__":
    run_program(main)
