"""Markdown page of the results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from benchmarks.gpu_check import plan, speed_page
from benchmarks.gpu_check.account import Paper
from benchmarks.gpu_check.results import FAILURE, NOT_RUN, Entry, Record
from ldarnet.markdown import escape, table

NOTHING = "Not measured."
CPU = "CPU"
"""Name of the device in a dry run."""
RATE_NAMES = {
    "memory": ("copy", 1e12, "TB/s"),
    "bfloat16, square": ("bf16 matrix product, large square", 1e12, "TFLOP/s"),
    "bfloat16": ("bf16 matrix product, widths of the model", 1e12, "TFLOP/s"),
    "float32": ("fp32 matrix product, widths of the model", 1e12, "TFLOP/s"),
    "tf32": ("the same with TF32", 1e12, "TFLOP/s"),
}


def render(record: Record, paper: Paper | None, note: str = "") -> str:
    """Render the page.

    Args:
        record: results.
        paper: estimate to compare with; None if there is none.
        note: text at the top.
    """
    entries = record.entries
    sections = {
        "Results": "\n".join(f"- {line}" for line in headline(record, paper)),
        "Failed, not run and not reached": incomplete(record),
        "Made with": "\n".join(record.made_with),
        "Speed, compared with the estimate": speed_page.comparison(entries, paper),
        "Where the time goes": speed_page.profiles(entries, paper),
        "All speeds": speed_page.speeds(entries),
        "Rates of the device": rates(entries, paper),
        "Selected backends": backends(entries),
        "Backends compared with the reference": verifications(entries),
        "Host synchronizations of a step without DeepSpeed": waits(entries),
        "DeepSpeed engine": engines(entries),
        "Skipped step, save and resume": training(entries),
        "Loss": learning(entries),
        "Equivalence with the published implementation": equivalence(entries),
    }
    text = "\n".join(f"## {title}\n\n{section}\n" for title, section in sections.items() if section)
    device = record.identity.get("device", "unknown")
    top = f"# {speed_page.model_name(entries)} on one GPU: {device}\n\n"
    if device == CPU:
        top += "**Dry run on a CPU with tiny sizes: it shows that the program works, not how fast anything is.**\n\n"
    return top + (f"{note}\n\n" if note else "") + text


def headline(record: Record, paper: Paper | None) -> Iterator[str]:
    """Yield the most important results."""
    entries = record.entries
    failed = sum(FAILURE in entry.result for entry in entries)
    left = sum(NOT_RUN in entry.result for entry in entries)
    done = len(entries) - failed - left
    missing = len(record.not_reached)
    counts = (
        f"{done} of {len(entries) + missing} checks complete, {f'**{failed} failed**' if failed else 'none failed'}"
    )
    yield f"{counts}, {left} not run, {missing} not reached"
    yield from speed_page.headline(entries, paper)
    tested = [found for _, found in _verified(entries) if "passed" in found]
    if tested:
        wrong = sum(not found["passed"] for found in tested)
        yield f"kernels: {len(tested) - wrong} of {len(tested)} comparisons with the reference passed" + (
            f", **{wrong} failed**" if wrong else ""
        )
    for entry in of_group(entries, plan.TRAINING):
        yield f"{entry.check.name}: {_verdict(entry)}"
    for entry in of_group(entries, plan.LEARNING):
        if entry.done:
            yield f"{entry.check.name}: {'falls' if entry.result['falls'] else '**does not fall**'}"


def of_group(entries: Sequence[Entry], group: str) -> list[Entry]:
    """Entries of a group."""
    return [entry for entry in entries if entry.check.group == group]


def incomplete(record: Record) -> str:
    """Failed checks and checks that were not run, with the reasons; and checks that were not reached."""
    rows = [
        (
            entry.check.name,
            "**failed**" if FAILURE in entry.result else "not run",
            escape(str(entry.result.get(FAILURE) or entry.result[NOT_RUN])),
            f"{entry.seconds:.0f}",
        )
        for entry in record.entries
        if not entry.done
    ]
    rows += [(name, "not reached", "", "") for name in record.not_reached]
    return table(("check", "outcome", "reason", "seconds"), rows, align_right=False) if rows else "None."


def rates(entries: Sequence[Entry], paper: Paper | None) -> str:
    """Measured rates beside those that the estimate assumes."""
    rows = []
    for entry in of_group(entries, plan.RATES):
        for key, (name, unit, unit_name) in RATE_NAMES.items():
            if key in entry.result:
                assumed = paper.rates.get(key) if paper else None
                rows.append(
                    (name, *_measured_and_assumed(entry.result[key] / unit, assumed and assumed / unit), unit_name)
                )
        if seconds := entry.result.get("seconds_per_launch"):
            rows.append(("launch of a small kernel", f"{seconds * 1e6:.2f}", "-", "-", "µs"))
    return table(("rate", "measured", "assumed", "measured / assumed", "unit"), rows) if rows else NOTHING


def _measured_and_assumed(measured: float, assumed: float | None) -> tuple[str, str, str]:
    if not assumed:
        return f"{measured:.3g}", "-", "-"
    return f"{measured:.3g}", f"{assumed:.3g}", f"{measured / assumed:.2f}"


def backends(entries: Sequence[Entry]) -> str:
    """Backends that `auto` selects, how long the selection takes, and why it skips others."""
    lines = []
    for entry in of_group(entries, plan.BACKENDS):
        if entry.done:
            names = ", ".join(f"{operation}={name}" for operation, name in entry.result["selected"].items())
            lines.append(f"- {entry.check.name}: {entry.result['seconds']:.1f} s; {names}")
            skipped = {f"  - `{name}` skipped: {escape(why)}": None for name, why in entry.result["skipped"].items()}
            lines += [line for line in skipped if line not in lines]
    return "\n".join(lines) or NOTHING


def _verified(entries: Sequence[Entry]) -> Iterator[tuple[tuple[str, str, str], dict]]:
    for entry in of_group(entries, plan.KERNELS):
        settings = entry.check.settings
        for name, found in entry.result.get("backends", {}).items():
            yield (settings["operation"], name, settings["dtype"]), found


def verifications(entries: Sequence[Entry]) -> str:
    """Errors of all backends."""
    rows = []
    for names, found in _verified(entries):
        if "max_error" in found:
            passed = "passed" if found["passed"] else "**failed**"
            rows.append(
                (*names, passed, f"{found['max_error']:.1e}", f"{found['tolerance']:.0e}", f"{found['seconds']:.1f}")
            )
        elif "error" in found:
            rows.append((*names, f"**error**: {escape(found['error'])}", "", "", ""))
        else:
            rows.append((*names, escape(found["unsupported_reason"]), "", "", ""))
    if not rows:
        return NOTHING
    header = ("operation", "backend", "inputs", "outcome", "error", "tolerance", "seconds")
    return (
        "Maximum error of outputs and gradients compared with the float64 reference on the same inputs, relative to "
        "the largest value; seconds include compilation and tuning.\n\n" + table(header, rows, align_right=False)
    )


def waits(entries: Sequence[Entry]) -> str:
    """Source lines at which the host synchronizes with the GPU."""
    found = [entry.result for entry in of_group(entries, plan.WAITS) if entry.done]
    if not found:
        return NOTHING
    return f"{found[0]['count']} in a step: {_counts(found[0]['lines'])}."


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} x `{name}`" for name, number in counts.items()) or "none"


def engines(entries: Sequence[Entry]) -> str:
    """Speed of the DeepSpeed engine with and without each switch."""
    rows: list[Sequence[object]] = []
    found = of_group(entries, plan.ENGINE)
    base = next((entry for entry in found if entry.check.name.endswith(plan.AS_IN_TRAINING) and entry.done), None)
    for entry in found:
        result, name = entry.result, entry.check.name.removeprefix("DeepSpeed, ")
        if not result.get("seconds"):
            rows.append([name, *["-"] * 8, escape(str(result.get(FAILURE) or result.get(NOT_RUN)))])
            continue
        seconds = _median(entry)
        losses = result.get("losses", [])
        expected = base.result["losses"] if base else []
        drift = [abs(a - b) for a, b in zip(losses, expected, strict=False)]
        rows.append(
            [
                name,
                f"{1e3 * seconds:.1f}",
                f"{result['bases'] / seconds:,.0f}",
                f"{seconds / _median(base):.3f}" if base else "-",
                f"{losses[-1]:.4f}" if losses else "-",
                f"{max(drift):.1e}" if drift else "-",
                len(result["skipped_steps"]) if "skipped_steps" in result else "-",
                _gib(result.get("peak_bytes")),
                _gib(result.get("reserved_bytes")),
                _counts(result["waits"]) if "waits" in result else "-",
            ]
        )
    if not rows:
        return NOTHING
    header = (
        "ZeRO stage 1, one rank", "ms per step", "bases/s", "time / as in training", "last loss",
        "largest loss difference", "skipped steps", "peak GiB", "reserved GiB", "host synchronizations of a step",
    )  # fmt: skip
    return (
        "Steps on different real windows, with guard and clipping; the median of blocks of steps, each timed with one "
        "wait at its end.\n\n" + table(header, rows)
    )


def _median(entry: Entry) -> float:
    seconds = sorted(entry.result["seconds"])
    return (seconds[(len(seconds) - 1) // 2] + seconds[len(seconds) // 2]) / 2


def _gib(number: float | None) -> str:
    return f"{number / 2**30:.1f}" if number else "-"


def training(entries: Sequence[Entry]) -> str:
    """Step with a NaN loss, save and resume."""
    lines = []
    for entry in of_group(entries, plan.TRAINING):
        lines.append(f"- {entry.check.name}: {_verdict(entry)}")
        result = entry.result
        if "save_seconds" in result:
            lines.append(
                f"  - saving takes {result['save_seconds']:.2f} s, during which training waits for "
                f"{result['stall_seconds']:.2f} s"
            )
        if "resumed_losses" in result:
            for name in ("uninterrupted_losses", "resumed_losses"):
                losses = ", ".join(f"{loss:.6f}" for loss in result[name])
                lines.append(f"  - {name.replace('_', ' ')}: {losses}")
    return "\n".join(lines) or NOTHING


def _verdict(entry: Entry) -> str:
    result = entry.result
    if not entry.done:
        return f"**failed**: {escape(result[FAILURE])}" if FAILURE in result else f"not run: {escape(result[NOT_RUN])}"
    if "planted_step" in result:
        if result["passed"]:
            return f"step {result['planted_step']} is skipped, weights and moments are unchanged, training continues"
        names = {
            "planted_step": "step with the NaN", "skipped_steps": "skipped steps",
            "unchanged": "weights and moments unchanged", "continues": "training continues",
        }  # fmt: skip
        return f"**failed** ({'; '.join(f'{text}: {result[name]}' for name, text in names.items())})"
    restored = "state restored bit for bit" if result["restored"] else "**state not restored bit for bit**"
    if result["identical"]:
        return f"{restored}; {result['steps']} steps later identical to the uninterrupted run, bit for bit"
    difference = f"{result['max_difference']:.1e}"
    text = f"{restored}; {result['steps']} steps later different from the uninterrupted run by {difference}"
    if result["deterministic"]:
        return f"{text}, **although two resumed runs are identical**"
    return (
        f"{text}; two resumed runs differ by {result['max_difference_of_repeats']:.1e}, so the GPU is not deterministic"
    )


def learning(entries: Sequence[Entry]) -> str:
    """Loss of a small model, and how it falls."""
    for entry in of_group(entries, plan.LEARNING):
        if entry.done:
            result = entry.result
            losses = result["losses"]
            marks = [round(number * (len(losses) - 1) / 5) for number in range(6)]
            curve = ", ".join(
                f"step {mark + 1}: {losses[mark]:.3f}" for mark, after in pairwise([*marks, -1]) if mark != after
            )
            return (
                f"`{entry.check.settings['model']}`, {result['steps']} steps of {result['windows']} windows "
                f"({result['source']}), bf16 autocast: {result['first_loss']:.3f} nats in the first "
                f"{result['averaged']} steps, {result['last_loss']:.3f} in the last {result['averaged']}. {curve}."
            )
    return NOTHING


def equivalence(entries: Sequence[Entry]) -> str:
    """Differences between the published implementation and ours."""
    lines = [
        f"- {entry.check.settings['dtype']}: loss differs by {entry.result['loss_difference']:.1e}, gradients by "
        f"{entry.result['gradient_difference']:.1e} (norm of the difference, relative to the norm)."
        for entry in of_group(entries, plan.OTHER)
        if entry.done
    ]
    return "\n".join(lines) or NOTHING
