"""Markdown report of `benchmarks.model_gpu`."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence

from benchmarks.measure import FAILURE, Cell, Result
from ldarnet.markdown import table
from ldarnet.model.cost import dense_bf16_peak

Found = list[tuple[Cell, Result]]
"""Measurements and their results."""

GROUPS = {
    "scan": r"_Scan|MambaChunkScan|_Exchange",
    "convolution": r"_Convolution|conv",
    "dechunking": r"_Dechunk",
    "gated norm": r"_GatedNorm",
    "norm": r"_AddNorm|norm",
    "SwiGLU": r"_SwiGLU",
    "attention": r"flash|varlen|attention|FlashAttn",
    "matrix products": r"\b(mm|bmm|addmm|baddbmm)\b",
    "optimizer": r"[Aa]dam|_foreach",
    "loss": r"softmax|nll_loss",
    "selection and indices": r"index|gather|scatter|nonzero|sort|cumsum|repeat_interleave",
    "copies and fills": r"copy|\b(cat|stack|clone|fill_|zero_|flip|pad|constant_pad_nd)\b",
}
"""Regular expressions for operation names, by group; the first match wins. Default group: 'elementwise and other'."""
MAX_NAME_CHARS, MAX_KERNELS = 80, 15


def report(found: Found, options: argparse.Namespace, made_with: str) -> str:
    """Render the results file."""
    sections = {"Made with": made_with, "Method": _method(found, options)}
    if options.note:
        sections = {"Note": options.note} | sections
    sections |= {
        "Verification of backends": _verification(found),
        "Equivalence of the published implementation": _agreement(found),
        "Training, bf16": _speed(found, options),
        f"Where the time goes, {options.detail:,} bases": _kernels(found, options),
        "Host-device synchronization": _synchronization(found),
        f"Alternative backends, {options.detail:,} bases": _one_at_a_time(found, options),
        f"Activation checkpointing, {options.detail:,} bases": _checkpointing(found, options),
        "Failures": _failures(found),
    }
    return f"# Training on a GPU: {options.models[0]}\n\n" + "\n".join(
        f"## {name}\n\n{text}\n" for name, text in sections.items()
    )


def _method(found: Found, options: argparse.Namespace) -> str:
    device = _device(found)
    peak = dense_bf16_peak(device)
    source = next((result["source"] for _, result in found if "source" in result), "nothing was measured")
    mfu = (
        f"MFU is the achieved model FLOP/s relative to the dense bf16 peak of {device} (data sheet: {peak / 1e12:,.0f} "
        "TFLOP/s)."
        if peak
        else f"MFU is omitted, because the dense bf16 peak of {device} is unknown."
    )
    return (
        f"Steps of forward, backward and fused AdamW under bf16 autocast, about {options.bases:,} bases each "
        f"({source}; masked as in pretraining), up to {options.steps} steps or {options.seconds:.0f} s after two "
        "warm-up steps. Weights are untrained; the router is calibrated to about four bases per chunk.\n\n"
        f"- `{options.models[0]}`: the model unchanged.\n"
        f"- `{options.models[0]}, published`: the same kernels, but both projections of every BiMamba-2 layer are "
        "computed once per direction, inputs and outputs are reversed in memory, and chunks are padded to the longest "
        "sequence in the batch. The extra memory of two separate passes is not included.\n"
        f"- `{options.models[1]}`: full attention (PyTorch's FlashAttention on equal windows), rotary positions and "
        "SwiGLU MLPs at single-base resolution.\n"
        f"- `{options.models[2]}`: BiMamba-2 layers at single-base resolution, with our kernels.\n\n"
        "FLOPs are model FLOPs from `ldarnet.model.cost`: matrix products in the forward and backward pass, without "
        f"recomputation. {mfu} Peak memory is PyTorch's maximum allocation; bytes per base are the memory that a "
        "step needs in addition to weights, gradients and optimizer state."
    )


def _device(found: Found) -> str:
    return next((result["device"] for _, result in found if "device" in result), "nothing")


def _verification(found: Found) -> str:
    rows = []
    for cell, result in found:
        if cell.kind == "verification":
            ((operation, name),) = cell.ops.items()
            if "error" in result:
                verdict = f"{'passed' if result['passed'] else '**failed**'}: {result['error']:.1e}"
                rows.append([operation, name, cell.dtype, verdict, f"{result['tolerance']:.0e}"])
            else:
                rows.append(
                    [
                        operation,
                        name,
                        cell.dtype,
                        result.get("unsupported_reason") or f"**error**: {result[FAILURE]}",
                        "",
                    ]
                )
    method = (
        "Maximum error of outputs and gradients compared with the float64 reference on the same inputs, relative to "
        "the largest value.\n\n"
    )
    return method + table(["operation", "backend", "inputs", "error", "tolerance"], rows)


def _agreement(found: Found) -> str:
    lines = [
        f"- {cell.dtype}: loss differs by {result['loss_difference']:.1e}, gradients by "
        f"{result['gradient_difference']:.1e} (norm of the difference, relative to the norm)."
        for cell, result in found
        if cell.kind == "agreement" and FAILURE not in result
    ]
    return "\n".join(lines) or "Not measured."


def _speed(found: Found, options: argparse.Namespace) -> str:
    peak = dense_bf16_peak(_device(found))
    measured = [(cell, result) for cell, result in found if _is_comparison(cell, options)]
    ours = {
        cell.length: result["bases_per_second"]["median"]
        for cell, result in measured
        if FAILURE not in result and (cell.model, cell.arrangement) == (options.models[0], "ours")
    }
    rows: list[Sequence[object]] = []
    for cell, result in sorted(measured, key=lambda pair: pair[0].length):
        name = f"{cell.model}, published" if cell.arrangement == "published" else cell.model
        start = [f"{cell.length:,}", cell.windows, name]
        if FAILURE in result:
            rows.append([*start, "", result[FAILURE], *[""] * 7])
            continue
        speed, work = result["bases_per_second"], result["model_flops_per_base"]
        rows.append([
            *start, f"{result['parameters'] / 1e6:.1f} M", f"{speed['median']:,.0f}", f"{speed['best']:,.0f}",
            f"{ours[cell.length] / speed['median']:.2f}" if cell.length in ours else "", f"{work / 1e6:,.0f}",
            f"{speed['median'] * work / peak:.1%}" if peak else "", f"{result['peak_bytes'] / 2**30:.1f}",
            f"{result['bytes_per_base'] / 1e3:,.1f}", " / ".join(f"{x:.2f}" for x in result["bases_per_chunk"]) or "-",
        ])  # fmt: skip
    header = [
        "bases per window", "windows", "model", "parameters", "bases/s (median)", "(best)", "speedup of ours",
        "MFLOP per base", "MFU", "peak GiB", "kB per base", "bases per chunk",
    ]  # fmt: skip
    return table(header, rows)


def _is_comparison(cell: Cell, options: argparse.Namespace) -> bool:
    return cell.kind == "training" and not cell.checkpointed and (not cell.ops or cell.model == options.models[1])


def _kernels(found: Found, options: argparse.Namespace) -> str:
    parts = [_breakdown(cell, result) for cell, result in found if cell.kind == "kernels" and FAILURE not in result]
    return "\n\n".join(parts) or "Not measured."


def _breakdown(cell: Cell, result: Result) -> str:
    groups: Counter[str] = Counter()
    for name, seconds in result["operations"].items():
        group = next((group for group, pattern in GROUPS.items() if re.search(pattern, name)), "elementwise and other")
        groups[group] += seconds
    busy, wall = sum(result["kernels"].values()) or groups.total(), result["step_seconds"]
    groups["not attributed"] = busy - groups.total()
    rows = [[group, f"{1e3 * seconds:.2f}", f"{seconds / busy:.1%}"] for group, seconds in groups.most_common()]
    text = (
        f"**{cell.model}**: step of {1e3 * wall:.1f} ms, device busy for {1e3 * busy:.1f} ms "
        f"({busy / wall:.0%}):\n\n" + table(["operation", "ms", "fraction"], rows)
    )
    longest = Counter(result["kernels"]).most_common(MAX_KERNELS)
    if longest:
        rows = [[f"`{name[:MAX_NAME_CHARS]}`", f"{1e3 * s:.2f}", f"{s / busy:.1%}"] for name, s in longest]
        text += f"\n\nTop {len(rows)} kernels:\n\n" + table(["kernel", "ms", "fraction"], rows)
    return text


def _synchronization(found: Found) -> str:
    for cell, result in found:
        if cell.kind == "synchronization" and FAILURE not in result:
            lines = ", ".join(f"{line} ({number})" for line, number in result["lines"].items())
            return f"A step of {cell.model} synchronizes {result['count']} times: {lines}."
    return "Not measured."


def _one_at_a_time(found: Found, options: argparse.Namespace) -> str:
    ours = _auto(found, options)
    choice = next((result for cell, result in found if cell.kind == "backends" and FAILURE not in result), {})
    rows: list[Sequence[object]] = []
    for cell, result in found:
        if cell.kind == "training" and cell.ops and cell.model == options.models[0]:
            ((operation, name),) = cell.ops.items()
            rows.append([operation, choice[operation]["selected"], name, *_compare(result, ours)])
    header = ["operation", "selected", "alternative", "bases/s (median)", "speedup of selected", "kB per base"]
    return table(header, rows)


def _checkpointing(found: Found, options: argparse.Namespace) -> str:
    ours = _auto(found, options)
    rows = [
        [", ".join(map(str, cell.checkpointed)) or "none", *_compare(result, ours)]
        for cell, result in found
        if cell.checkpointed or result is ours
    ]
    return table(["checkpointed stages", "bases/s (median)", "speedup without checkpointing", "kB per base"], rows)


def _auto(found: Found, options: argparse.Namespace) -> Result | None:
    """Training result of implementation ``ours`` at `options.detail` bases per window; None if it failed."""
    return next(
        (
            result
            for cell, result in found
            if _is_comparison(cell, options)
            and (cell.model, cell.arrangement, cell.length) == (options.models[0], "ours", options.detail)
            and FAILURE not in result
        ),
        None,
    )


def _compare(result: Result, ours: Result | None) -> list[str]:
    """Table cells: speed, speedup of `ours` over `result`, memory per base; the error message if `result` failed."""
    if FAILURE in result:
        return [result[FAILURE], "", ""]
    speed = result["bases_per_second"]["median"]
    ratio = f"{ours['bases_per_second']['median'] / speed:.2f}" if ours else ""
    return [f"{speed:,.0f}", ratio, f"{result['bytes_per_base'] / 1e3:,.1f}"]


def _failures(found: Found) -> str:
    lines = [
        f"- {cell.kind}, {cell.model}, {cell.arrangement}, {cell.windows} windows of {cell.length:,} bases, "
        f"{cell.dtype}, {cell.ops or 'default backends'}: {result[FAILURE]}"
        for cell, result in found
        if FAILURE in result
    ]
    return "\n".join(lines) or "None."
