"""Estimate the speed of a training step on a GPU from its launches, bytes and FLOPs, counted without a GPU.

    python -m benchmarks.gpu_account --windows 8 32

Runs the training step on fake CUDA tensors (:mod:`benchmarks.fake_cuda`) and divides the bytes and FLOPs of each kernel
by assumed rates of an NVIDIA H200. The result is a lower bound of the step time, not a measurement. Needs a CPU build
of torch, Triton and g++. If the Python part of mamba-ssm is missing, a stand-in is counted instead of its scan.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec

from benchmarks.fake_cuda.recorder import CONCATENATIONS
from benchmarks.fake_cuda.trace import (
    PRETRAIN,
    PROGRAMS,
    STAND_IN,
    StepTrace,
    Trace,
    TraceRequest,
    trace,
)
from benchmarks.record import ProgramParser, add_result_options, provenance, result_file, run_program, write_result
from benchmarks.roofline import ASSUMED, DATA_SHEET, RATES, needed_rates, rows
from ldarnet import markdown
from ldarnet.io.files import write_json_atomic
from ldarnet.model import LDARNetConfig
from ldarnet.model.configuration import PRESETS
from ldarnet.model.cost import PEAK_BF16_FLOPS, cost

PEAK = PEAK_BF16_FLOPS["H200"]
OURS, PUBLISHED = "ours", "published"
UNLOGGED, LOGGED = "not logged", "logged"
REVERSALS = ("row gathers (index_select)", CONCATENATIONS)
"""Parts that the published fused kernels do not have."""
TARGET_MFU = 0.35
MAMBA_SSM = {"ssd": "mamba-ssm"}


SECONDS_PER_LAUNCH = 15e-6
"""Assumed host time per launch: a PyTorch operation takes 5 µs or more, a Triton kernel called from Python 20 to 50."""


@dataclass(frozen=True)
class TracedCell:
    """A workload and its trace."""

    workload: TraceRequest
    trace: Trace

    @property
    def step(self) -> StepTrace:
        """Trace of the step that logs no metrics."""
        return self.trace.steps[UNLOGGED]

    @property
    def title(self) -> str:
        """Title of the workload."""
        work = self.workload
        unit = "windows" if work.program == PRETRAIN else "rows"
        factor = work.chunk_capacity_factor
        static = "" if factor is None else f", static number of chunks ({factor:g} x target)"
        ops = "".join(f", {operation}={name}" for operation, name in work.ops.items())
        batch = f"{work.windows} {unit} of {work.length:,} bases"
        batch = batch if work.accumulation == 1 else f"{work.accumulation} micro-steps of {batch}"
        return f"{work.program}, {work.arrangement}{ops}, {batch}{static}"

    def seconds(self, without: Sequence[str] = (), rates: Mapping[str, float] = ASSUMED) -> float:
        """Lower bound of the duration of the step in seconds; the parts in `without` are not included."""
        return sum(row.seconds for part, row in rows(self.step, rates).items() if part not in without)

    def mfu(self, seconds: float) -> float:
        """Model FLOPs of the step divided by its duration `seconds`, as a fraction of the peak FLOP/s."""
        return self.model_flops / seconds / PEAK

    @property
    def model_flops(self) -> float:
        """Model FLOPs of the step."""
        work = self.workload
        config = LDARNetConfig.preset(work.preset)
        chunks = [work.bases_per_chunk**stage for stage in range(1, config.num_stages)]
        return cost(config, work.length, chunks).training_flops * self.step.bases

    def summary(self, label: str = "", without: Sequence[str] = ()) -> list[str]:
        """Row of the summary table; the parts in `without` are not included."""
        step, seconds = self.step, self.seconds(without)
        kept = [row for part, row in rows(step).items() if part not in without]
        launches, moved = sum(row.launches for row in kept), sum(row.bytes for row in kept)
        return [
            self.title + label,
            f"{launches:,}",
            f"{moved / 1e9:.1f}",
            f"{moved / step.bases / 1e6:.2f}",
            f"{sum(row.flops for row in kept) / 1e12:.2f}",
            f"{1e3 * seconds:.1f}",
            f"{1e3 * launches * SECONDS_PER_LAUNCH:.1f}",
            f"{step.bases / seconds:,.0f}",
            f"{self.mfu(seconds):.1%}",
        ]


SUMMARY = (
    "step",
    "launches",
    "GB",
    "MB/base",
    "TFLOP",
    "GPU ms, at least",
    "host ms",
    "bases/s, at most",
    "MFU, at most",
)


def report(cells: Sequence[TracedCell], note: str, made_with: str) -> str:
    """Render the results file."""
    preset = cells[0].workload.preset
    summary = []
    for cell in cells:
        summary.append(cell.summary())
        if cell.workload.arrangement == PUBLISHED:
            summary.append(cell.summary(", without row gathers and concatenations", REVERSALS))
    rates = [(name, f"{rate.value / 1e12:g} {rate.unit}", rate.reason) for name, rate in RATES.items()]
    sections = [
        f"# {preset} on one H200, on paper",
        "**On paper: no GPU ran this.** Launches, bytes and FLOPs were counted on fake CUDA tensors. Times are lower "
        "bounds: bytes or FLOPs of each kernel at the assumed rates. They do not include launch overhead, allocation, "
        "communication or DeepSpeed.",
        *([note] if note else []),
        made_with,
        "## Summary",
        markdown.table(SUMMARY, summary),
        f"`host ms` assumes {SECONDS_PER_LAUNCH * 1e6:g} µs per launch, from Python; if it exceeds the GPU time, the "
        "host limits the speed. MFU is an upper bound: model FLOPs (`ldarnet.model.cost`) per second of GPU time, as a "
        f"fraction of {PEAK / 1e12:.0f} TFLOP/s.",
        *published_note(cells),
        *compared(cells),
        "## Assumed rates",
        markdown.table(("rate", "value", "source"), rates, align_right=False),
        *two_bounds(cells),
        *target(cells[0]),
        *(section(cell) for cell in cells),
        how_counted(cells[0]),
    ]
    return "\n\n".join(sections) + "\n"


def published_note(cells: Sequence[TracedCell]) -> list[str]:
    """Explain what the published implementation includes; empty if it was not traced."""
    if all(cell.workload.arrangement != PUBLISHED for cell in cells):
        return []
    return [
        "`published` emulates the authors' code with our kernels (`benchmarks.baselines.arrange`): projections once "
        "per direction, reversed inputs, padded chunks. Their fused kernels need no row gathers and no concatenation "
        "of gradients; the second line of each `published` step leaves out these parts. All sequences have equally "
        "many chunks here, so padding costs nothing.",
        "With `ssd=mamba-ssm`, the scan is that of the authors; convolution, norms, attention and products are ours. "
        "In a step of ldarnet-110m with 8 windows, the emulation moves 5.4 GB that their code does not, to add and "
        "halve gradients, and leaves out 6.2 GB: their code reads the input of the convolution and the gate, and "
        "writes their gradients and the output of the norm, once per direction. Their fused function also computes "
        "the convolution again in the backward pass, 3.5 GB (0.8 ms) more that are not counted.",
    ]


def compared(cells: Sequence[TracedCell]) -> list[str]:
    """Compare the published arrangement with ours: minimum durations of the same step."""

    def work(cell: TracedCell) -> tuple[object, ...]:
        return cell.workload.program, cell.workload.windows, cell.workload.accumulation

    ours = {work(cell): cell.seconds() for cell in cells if cell.workload.arrangement == OURS}
    lines = []
    for cell in cells:
        if cell.workload.arrangement == PUBLISHED and (seconds := ours.get(work(cell))):
            ratios = (cell.seconds() / seconds, cell.seconds(REVERSALS) / seconds)
            lines.append((cell.title, *(f"{ratio:.2f}x" for ratio in ratios)))
    header = ("minimum GPU time, relative to ours", "all parts", "without row gathers and concatenations")
    return [markdown.table(header, lines)] if lines else []


def two_bounds(cells: Sequence[TracedCell]) -> list[str]:
    """State the MFU at the assumed rates and at those of the data sheet."""
    lines = []
    for cell in cells:
        assumed, fastest = cell.seconds(), cell.seconds(rates=DATA_SHEET)
        times = f"{1e3 * assumed:.1f}", f"{1e3 * fastest:.1f}"
        lines.append((cell.title, times[0], f"{cell.mfu(assumed):.1%}", times[1], f"{cell.mfu(fastest):.1%}"))
    header = ("step", "ms, assumed rates", "MFU, assumed rates", "ms, data sheet", "MFU, data sheet")
    return [
        "## MFU at assumed rates and at the data sheet's rates",
        f"At the assumed rates, a kernel takes as long as its bytes or its FLOPs at the rates above, whichever is "
        f"longer; the target of {TARGET_MFU:.0%} MFU refers to these. At the data sheet's rates "
        f"({', '.join(f'{name} {rate.data_sheet / 1e12:g} {rate.unit}' for name, rate in RATES.items())}), it takes "
        "as long as the hardware needs at its peak: no real kernel is as fast.",
        markdown.table(header, lines),
    ]


def target(cell: TracedCell) -> list[str]:
    """State what the target MFU would need; empty if the step reaches it."""
    seconds = cell.model_flops / PEAK / TARGET_MFU
    if cell.seconds() <= seconds:
        return []
    parts = list(rows(cell.step).values())
    moving, executed = sum(row.bound.get("memory", 0.0) for row in parts), sum(row.flops for row in parts)
    header = ("rate", "ms at this rate", "assumed", "needed, if only this rate were higher", "data sheet")
    return [
        f"## What {TARGET_MFU:.0%} MFU would need",
        f"{cell.title}: at most {1e3 * seconds:.1f} ms, but the parts take {1e3 * cell.seconds():.1f} ms at the "
        f"assumed rates. Matrix products, scan and attention take {1e3 * (cell.seconds() - moving):.1f} ms of this, "
        f"for {executed / cell.model_flops:.2f} times the model FLOPs. Norms, convolution, gates and optimizer are "
        "bound by the memory rate; so is the scan at a higher rate of its products.",
        markdown.table(header, needed_rates(cell.step, seconds)),
    ]


def section(cell: TracedCell) -> str:
    """Markdown section of one workload: totals by part, synchronizations, callers of float32 matrix products."""
    step, made = cell.step, rows(cell.step)
    lines = [
        (part, f"{row.launches:,}", f"{row.bytes / 1e9:.1f}", f"{row.flops / 1e12:.2f}", f"{1e3 * row.seconds:.1f}")
        for part, row in made.items()
    ]
    total = (
        "total", f"{step.launches:,}", f"{step.bytes / 1e9:.1f}",
        f"{sum(row.flops for row in made.values()) / 1e12:.2f}", f"{1e3 * cell.seconds():.1f}",
    )  # fmt: skip
    facts = [
        f"- Host synchronizations: {listed(step.waits)}",
        f"- Copies from pageable memory: {listed(step.pageable_copies)}",
    ]
    if logged := cell.trace.steps.get(LOGGED):
        more = {name: number - step.waits.get(name, 0) for name, number in logged.waits.items()}
        more = {name: number for name, number in more.items() if number > 0}
        launches = logged.launches - step.launches
        facts.append(f"- A logged step has {launches} more launches and these synchronizations: {listed(more)}")
    exact = sorted({entry.place for entry in step.operations if entry.place and entry.dtype == "float32"})
    facts.append(f"- Matrix products in float32 are called by: {', '.join(f'`{name}`' for name in exact) or 'none'}")
    header = ("part", "launches", "GB", "TFLOP", "ms, at least")
    return f"## {cell.title}\n\n{markdown.table(header, [*lines, total])}\n\n" + "\n".join(facts)


def listed(counts: dict[str, int]) -> str:
    """Names and their counts, as Markdown."""
    return ", ".join(f"{number} x `{name}`" for name, number in counts.items()) or "none"


def how_counted(cell: TracedCell) -> str:
    """Markdown section about the method."""
    kernels = ", ".join(f"{operation}={name}" for operation, name in cell.trace.kernels.items())
    stand_in = (
        " mamba-ssm is missing: the scan is a stand-in with the launches of mamba-ssm's scan, but fewer bytes."
        if cell.trace.scan == STAND_IN
        else ""
    )
    return (
        "## How it was counted\n\n"
        f"- Kernels: {kernels}.{stand_in}\n"
        f"- {cell.workload.bases_per_chunk:g} positions per chunk: fake tensors have no values.\n"
        "- Bytes: each kernel reads its inputs and writes its outputs once, gathers read the selected rows. Caches and "
        "kernels that read their inputs twice change that.\n"
        "- FLOPs are those of matrix products; those of the scan are estimated from its shapes, with its block size.\n"
        "- One micro-step per optimizer step if not stated otherwise, ZeRO stage 0 without DeepSpeed, bf16 autocast, "
        "fused AdamW."
    )


def cell_record(cell: TracedCell) -> dict[str, object]:
    """Content of the JSON file for one workload: totals by part, phase and operation."""
    totals: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
    for entry in cell.step.operations:
        sums = totals[entry.part, entry.phase, entry.name, entry.dtype]
        for number, value in enumerate((entry.launches, entry.bytes, entry.flops)):
            sums[number] += entry.calls * value
    keys = ("part", "phase", "name", "dtype", "launches", "bytes", "flops")
    return {
        "workload": asdict(cell.workload),
        "kernels": cell.trace.kernels,
        "scan": cell.trace.scan,
        "bases": cell.step.bases,
        "parts": {part: asdict(row) | {"seconds": row.seconds} for part, row in rows(cell.step).items()},
        "waits": {name: step.waits for name, step in cell.trace.steps.items()},
        "pageable_copies": {name: step.pageable_copies for name, step in cell.trace.steps.items()},
        "operations": [dict(zip(keys, (*key, *sums), strict=True)) for key, sums in sorted(totals.items())],
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ProgramParser("gpu_account", __doc__)
    add = parser.add_argument
    add("--preset", choices=sorted(PRESETS), default="ldarnet-110m", help="model preset")
    add("--programs", nargs="+", choices=PROGRAMS, default=[PRETRAIN], help="training programs (default: pretrain)")
    add(
        "--windows",
        nargs="+",
        type=_batch,
        default=[(8, 1), (32, 1)],
        metavar="WINDOWS[xMICRO_STEPS]",
        help="windows per step, such as 8, or windows per micro-step and number of micro-steps, such as 8x24 for the "
        "batch of ldarnet-110m on 8 GPUs (default: 8 32)",
    )
    add("--length", type=int, default=4096, help="bases per window")
    add("--arrangements", nargs="+", choices=(OURS, PUBLISHED), default=[OURS, PUBLISHED])
    add(
        "--ops",
        nargs="*",
        default=[],
        metavar="OPERATION=NAME",
        help="backends of operations, such as ssd=torch; for other operations, auto selects the backend",
    )
    add(
        "--chunk-capacity-factors",
        nargs="+",
        type=_factor,
        default=[None],
        metavar="FACTOR",
        help="values of training.chunk_capacity_factor for pretraining; none to count chunks (default: none)",
    )
    add_result_options(parser, "gpu-account")
    options = parser.parse_args(arguments)
    if wrong := [item for item in options.ops if "=" not in item]:
        parser.error(f"--ops {wrong[0]}: not OPERATION=NAME")
    return options


def workloads(options: argparse.Namespace) -> list[TraceRequest]:
    """The training steps to trace. Arrangements, capacity factors and micro-steps apply to pretraining only.

    If mamba-ssm is installed, the published arrangement is also traced with its scan.
    """
    ops = dict(item.split("=", 1) for item in options.ops)
    kernels = {OURS: [ops], PUBLISHED: [ops, ops | MAMBA_SSM] if find_spec("mamba_ssm") else [ops]}
    return [
        TraceRequest(
            program, options.preset, windows, options.length, arrangement, chosen,
            chunk_capacity_factor=factor, accumulation=micro_steps if program == PRETRAIN else 1,
        )
        for program in options.programs
        for windows, micro_steps in options.windows
        for arrangement in (options.arrangements if program == PRETRAIN else [OURS])
        for chosen in kernels[arrangement]
        for factor in (options.chunk_capacity_factors if program == PRETRAIN else [None])
    ]  # fmt: skip


def _batch(text: str) -> tuple[int, int]:
    windows, _, micro_steps = text.partition("x")
    return int(windows), int(micro_steps or 1)


def _factor(text: str) -> float | None:
    return None if text == "none" else float(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trace all steps and print the path of the results file."""
    options = parse(arguments)
    file, cells = result_file(options.name, options.out), []
    for workload in workloads(options):
        cells.append(TracedCell(workload, trace(workload)))
        facts = zip(SUMMARY, cells[-1].summary(), strict=True)
        print("  ".join(f"{name}={value}" for name, value in facts), flush=True)
    made_with = provenance(options.command)
    rates = {name: rate.value for name, rate in RATES.items()}
    content = {"made_with": made_with.splitlines(), "rates": rates, "cells": [cell_record(cell) for cell in cells]}
    write_json_atomic(file.with_suffix(".json"), content)
    write_result(file, report(cells, options.note, made_with))


if __name__ == "__main__":
    run_program(main)
