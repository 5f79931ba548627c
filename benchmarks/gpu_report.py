"""What `benchmarks.model_gpu` found, as Markdown."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence

from benchmarks.measure import FAILURE, Cell, Result
from ldarnet.markdown import table
from ldarnet.model.cost import dense_bf16_peak

Found = list[tuple[Cell, Result]]
"""What was measured, and what came of it."""

GROUPS = {
    "scan": r"_Scan|MambaChunkScan|_Exchange",
    "convolution": r"_Convolution|conv",
    "dechunking": r"_Dechunk",
    "gated norm": r"_GatedNorm",
    "norm": r"_AddNorm|norm",
    "SwiGLU": r"_SwiGLU",
    "attention": r"flash|varlen|attention|FlashAttn",
    "matrix products": r"\b(mm|bmm|addmm|baddbmm)\b",
    "optimiser": r"[Aa]dam|_foreach",
    "loss": r"softmax|nll_loss",
    "selection and indices": r"index|gather|scatter|nonzero|sort|cumsum|repeat_interleave",
    "copies and fills": r"copy|\b(cat|stack|clone|fill_|zero_|flip|pad|constant_pad_nd)\b",
}
"""Operations by the first pattern that is found in their names; the others are called elementwise and other."""
LONGEST_NAME, KERNELS_SHOWN = 80, 15


def report(found: Found, options: argparse.Namespace, made_with: str) -> str:
    """The file as Markdown."""
    sections = {"Made with": made_with, "What was measured": _question(found, options)}
    if options.note:
        sections = {"Note": options.note} | sections
    sections |= {
        "Is every backend right?": _proofs(found),
        "Is the published arrangement the same function?": _agreement(found),
        "Training, bf16": _speed(found, options),
        f"Where the time goes, {options.detail:,} bases": _kernels(found, options),
        "Waiting for the device": _waits(found),
        f"Another backend for one operation, {options.detail:,} bases": _one_at_a_time(found, options),
        f"Layers computed again in the backward pass, {options.detail:,} bases": _recompute(found, options),
        "What failed": _failures(found),
    }
    return f"# Training on a GPU: {options.models[0]}\n\n" + "\n".join(
        f"## {name}\n\n{text}\n" for name, text in sections.items()
    )


def _question(found: Found, options: argparse.Namespace) -> str:
    device = _device(found)
    peak = dense_bf16_peak(device)
    source = next((result["source"] for _, result in found if "source" in result), "nothing was measured")
    utilisation = (
        f"the peak of {device} for dense matrices in bf16, {peak / 1e12:,.0f} TFLOP/s by its data sheet"
        if peak
        else f"the peak of the device, which is not known here for {device}, so that it is left out"
    )
    return (
        f"Steps of forward, backward and fused AdamW under bf16 autocast, of about {options.bases:,} bases each "
        f"({source}; masked as in pretraining), after two that are not counted, up to {options.steps} steps or "
        f"{options.seconds:.0f} s. Weights are untrained, with the router set to begin a chunk at about every fourth "
        "base.\n\n"
        f"- `{options.models[0]}`: the model as it is.\n"
        f"- `{options.models[0]}, published`: the same kernels, but both projections of every BiMamba-2 layer computed "
        "for each direction, inputs and outputs reversed in memory, and the chunks of a batch padded to its longest "
        "sequence. What two separate passes would keep in memory besides is not counted against it.\n"
        f"- `{options.models[1]}`: full attention (PyTorch's FlashAttention on equal windows), rotary positions and "
        "SwiGLU MLPs, at the resolution of bases.\n"
        f"- `{options.models[2]}`: BiMamba-2 layers at the resolution of bases, by our kernels.\n\n"
        "Operations are the model's, by `ldarnet.model.cost`: products of forward and backward pass, whatever a kernel "
        f"computes besides. MFU is their rate over {utilisation}. Peak memory is what PyTorch had allocated at most; "
        "bytes per base are what a step needs besides weights, their gradients and the optimiser."
    )


def _device(found: Found) -> str:
    return next((result["device"] for _, result in found if "device" in result), "nothing")


def _proofs(found: Found) -> str:
    rows = []
    for cell, result in found:
        if cell.kind == "proof":
            ((operation, name),) = cell.ops.items()
            if "error" in result:
                verdict = f"{'right' if result['right'] else '**wrong**'}: {result['error']:.1e}"
                rows.append([operation, name, cell.dtype, verdict, f"{result['tolerance']:.0e}"])
            else:
                rows.append(
                    [operation, name, cell.dtype, result.get("obstacle") or f"**failed**: {result[FAILURE]}", ""]
                )
    words = (
        "Largest error of outputs and gradients relative to the largest value, against the reference in float64 on the "
        "same inputs.\n\n"
    )
    return words + table(["operation", "backend", "inputs", "error", "accepted"], rows)


def _agreement(found: Found) -> str:
    lines = [
        f"- {cell.dtype}: loss differs by {result['loss_difference']:.1e}, gradients by "
        f"{result['gradient_difference']:.1e} (norm of the difference over norm)."
        for cell, result in found
        if cell.kind == "agreement" and FAILURE not in result
    ]
    return "\n".join(lines) or "It was not measured."


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
        "bases in a window", "windows", "model", "parameters", "bases/s (median)", "(best)", "ours is faster by",
        "MFLOP per base", "MFU", "peak GiB", "kB per base", "bases per chunk",
    ]  # fmt: skip
    return table(header, rows)


def _is_comparison(cell: Cell, options: argparse.Namespace) -> bool:
    return cell.kind == "training" and not cell.recompute and (not cell.ops or cell.model == options.models[1])


def _kernels(found: Found, options: argparse.Namespace) -> str:
    parts = [_breakdown(cell, result) for cell, result in found if cell.kind == "kernels" and FAILURE not in result]
    return "\n\n".join(parts) or "It was not measured."


def _breakdown(cell: Cell, result: Result) -> str:
    groups: Counter[str] = Counter()
    for name, seconds in result["operations"].items():
        group = next((group for group, pattern in GROUPS.items() if re.search(pattern, name)), "elementwise and other")
        groups[group] += seconds
    busy, wall = sum(result["kernels"].values()) or groups.total(), result["step_seconds"]
    groups["not attributed"] = busy - groups.total()
    rows = [[group, f"{1e3 * seconds:.2f}", f"{seconds / busy:.1%}"] for group, seconds in groups.most_common()]
    text = (
        f"**{cell.model}**, a step of {1e3 * wall:.1f} ms, in which the device computed for {1e3 * busy:.1f} ms "
        f"({busy / wall:.0%}):\n\n" + table(["operation", "ms", "share"], rows)
    )
    longest = Counter(result["kernels"]).most_common(KERNELS_SHOWN)
    if longest:
        rows = [[f"`{name[:LONGEST_NAME]}`", f"{1e3 * s:.2f}", f"{s / busy:.1%}"] for name, s in longest]
        text += f"\n\nThe {len(rows)} kernels that took longest:\n\n" + table(["kernel", "ms", "share"], rows)
    return text


def _waits(found: Found) -> str:
    for cell, result in found:
        if cell.kind == "waits" and FAILURE not in result:
            places = ", ".join(f"{place} ({number})" for place, number in result["places"].items())
            return f"A step of {cell.model} makes the host wait {result['waits']} times: {places}."
    return "It was not measured."


def _one_at_a_time(found: Found, options: argparse.Namespace) -> str:
    own = _auto(found, options)
    choice = next((result for cell, result in found if cell.kind == "backends" and FAILURE not in result), {})
    rows: list[Sequence[object]] = []
    for cell, result in found:
        if cell.kind == "training" and cell.ops and cell.model == options.models[0]:
            ((operation, name),) = cell.ops.items()
            rows.append([operation, choice[operation]["chosen"], name, *_against(result, own)])
    header = ["operation", "chosen", "instead", "bases/s (median)", "chosen is faster by", "kB per base"]
    return table(header, rows)


def _recompute(found: Found, options: argparse.Namespace) -> str:
    own = _auto(found, options)
    rows = [
        [", ".join(map(str, cell.recompute)) or "none", *_against(result, own)]
        for cell, result in found
        if cell.recompute or result is own
    ]
    return table(["stages", "bases/s (median)", "none is faster by", "kB per base"], rows)


def _auto(found: Found, options: argparse.Namespace) -> Result | None:
    """Our model as it is, at the length of the details."""
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


def _against(result: Result, own: Result | None) -> list[str]:
    """Speed, how much faster our model is as it is, and memory."""
    if FAILURE in result:
        return [result[FAILURE], "", ""]
    speed = result["bases_per_second"]["median"]
    ratio = f"{own['bases_per_second']['median'] / speed:.2f}" if own else ""
    return [f"{speed:,.0f}", ratio, f"{result['bytes_per_base'] / 1e3:,.1f}"]


def _failures(found: Found) -> str:
    lines = [
        f"- {cell.kind}, {cell.model}, {cell.arrangement}, {cell.windows} windows of {cell.length:,} bases, "
        f"{cell.dtype}, {cell.ops or 'backends as chosen'}: {result[FAILURE]}"
        for cell, result in found
        if FAILURE in result
    ]
    return "\n".join(lines) or "Nothing."
