"""Sections of the page about speed: MFU, bases per second, ratio to the published implementation, profile, estimate."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_check import plan
from benchmarks.gpu_check.account import Paper, PaperStep
from benchmarks.gpu_check.results import FAILURE, NOT_RUN, Entry
from ldarnet.markdown import escape, table

OURS = "ours"
REST = "other PyTorch operations"
PARTS = {
    "scan": r"SSD|Scan|_PermuteRows",
    "convolution": r"Convolution|conv1d",
    "gated norm": r"GatedNorm",
    "add and norm": r"AddNorm|rms_norm",
    "SwiGLU": r"SwiGLU",
    "dechunk": r"Dechunk",
    "rotary": r"Rotary",
    "router": r"Router",
    "attention": r"flash|varlen|attention|FlashAttn",
    "matrix products": r"\b(mm|bmm|addmm|baddbmm)\b|Linear",
    "clipping, guard, optimizer": r"[Aa]dam|_foreach",
    "row gathers (index_select)": r"\bindex_select\b",
    "concatenations": r"\bcat\b",
}
"""Part of the step -> pattern of the names of operations in the profile; the first match wins, the default is `REST`.
The names are those of `benchmarks.gpu_account`, except that matrix products of all dtypes are one part."""
MAX_NAME_CHARS, MAX_KERNELS = 80, 20


@dataclass(frozen=True)
class Speed:
    """Speed of one training check."""

    entry: Entry

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the check."""
        return self.entry.check.settings

    @property
    def arrangement(self) -> str:
        """Implementation of the model."""
        return self.settings.get("arrangement", OURS)

    @property
    def windows(self) -> int:
        """Windows per batch; fewer than in the settings if memory ran out."""
        return self.entry.result.get("windows", self.settings["windows"])

    @property
    def bases_per_second(self) -> float | None:
        """Median speed; None if no step was timed."""
        found = self.entry.result.get("bases_per_second")
        return found and found["median"]

    @property
    def seconds(self) -> float | None:
        """Median duration of a step; None if no step was timed."""
        found = self.entry.result.get("seconds")
        return statistics.median(found) if found else None

    @property
    def mfu(self) -> float | None:
        """Model FLOPs per second, as a fraction of the peak; None if unknown."""
        return self.at(self.seconds)

    def at(self, seconds: float | None) -> float | None:
        """MFU if a step took `seconds`; None if unknown."""
        result = self.entry.result
        work, peak = result.get("model_flops_per_base"), result.get("peak_flops")
        return work * result["bases"] / seconds / peak if work and peak and seconds else None

    def paper(self, paper: Paper | None) -> PaperStep | None:
        """Estimate of this step; None if there is none."""
        key = self.settings["model"], self.windows, self.settings["length"], self.arrangement
        return paper.steps.get(key) if paper and self.plain else None

    @property
    def plain(self) -> bool:
        """Whether backends are selected automatically, without activation checkpointing."""
        return not self.settings.get("ops") and not self.settings.get("checkpointed")


def measured(entries: Sequence[Entry]) -> list[Speed]:
    """All training checks."""
    return [Speed(entry) for entry in entries if entry.check.group == plan.SPEED]


def published_of(speed: Speed, speeds: Sequence[Speed]) -> Speed | None:
    """The published implementation at the size of `speed`; None if it was not measured."""
    if speed.arrangement != OURS or not speed.plain:
        return None

    def size(other: Speed) -> tuple[Any, ...]:
        return other.settings["model"], other.windows, other.settings["length"]

    same = (other for other in speeds if other.arrangement == plan.PUBLISHED and size(other) == size(speed))
    return next((other for other in same if other.plain and other.seconds), None)


def ours_for(speed: Speed, speeds: Sequence[Speed]) -> Speed | None:
    """Our model at the length of `speed`, with as many windows if this was measured, or else with the most windows."""
    name = model_name([other.entry for other in speeds])
    found = [
        other
        for other in speeds
        if other.plain and other.seconds and other.arrangement == OURS and other.settings["model"] == name
        and other.settings["length"] == speed.settings["length"]
    ]  # fmt: skip
    return max(found, key=lambda other: (other.windows == speed.windows, other.windows), default=None)


def model_name(entries: Sequence[Entry]) -> str:
    """Model of the first training check."""
    return next((speed.settings["model"] for speed in measured(entries)), "LDARNet")


def headline(entries: Sequence[Entry], paper: Paper | None) -> Iterator[str]:
    """Yield one line per size that has an estimate, or for the first sizes if there is no estimate."""
    speeds = measured(entries)
    for speed in speeds:
        if speed.arrangement != OURS or not speed.seconds or not (speed.paper(paper) or published_of(speed, speeds)):
            continue
        estimate, published = speed.paper(paper), published_of(speed, speeds)
        text = f"{size_text(speed)}: **{speed.bases_per_second:,.0f} bases/s, MFU {_percent(speed.mfu)}**"
        if estimate:
            bound = f"{estimate.bases / estimate.total:,.0f} and {_percent(speed.at(estimate.total))}"
            text += f" (estimate: at most {bound})"
        if published and published.seconds and speed.seconds:
            text += f"; **{published.seconds / speed.seconds:.2f} times the published implementation**"
            if (other := published.paper(paper)) and estimate:
                text += f" (estimate: {other.total / estimate.total:.2f})"
        yield text + _partial(speed)


def size_text(speed: Speed) -> str:
    """Model and size of a batch."""
    return f"`{speed.settings['model']}`, {speed.windows} windows of {speed.settings['length']:,} bases"


def comparison(entries: Sequence[Entry], paper: Paper | None) -> str:
    """Measured steps beside the estimate."""
    if paper is None:
        return "No estimate: run `python -m benchmarks.gpu_account`, then this program with `--page FILE`."
    rows = []
    for speed in measured(entries):
        estimate = speed.paper(paper)
        if estimate and speed.seconds:
            rows.append(
                (
                    f"{size_text(speed)}, {speed.arrangement}{_partial(speed)}",
                    f"{speed.bases_per_second:,.0f}",
                    f"{1e3 * speed.seconds:.1f}",
                    _percent(speed.mfu),
                    f"{1e3 * estimate.total:.1f}",
                    f"{speed.seconds / estimate.total:.2f}",
                    _percent(speed.at(estimate.total)),
                )
            )
    if not rows:
        return f"Nothing was measured that `{paper.name}` estimates."
    header = ("step", "bases/s", "ms", "MFU", "estimate, ms at least", "measured / estimate", "MFU at most")
    return f"Estimate: `{paper.name}`.\n\n" + table(header, rows)


def speeds(entries: Sequence[Entry]) -> str:
    """All training checks."""
    found = measured(entries)
    rows: list[Sequence[object]] = []
    for speed in found:
        result, name = speed.entry.result, speed.entry.check.name
        start = [name, speed.windows, f"{speed.settings['length']:,}"]
        if speed.seconds is None:
            rows.append([*start, escape(str(result.get(FAILURE) or result.get(NOT_RUN))), *[""] * 8])
            continue
        ours, started = ours_for(speed, found), result["start_up"]
        rows.append([
            *start, f"{speed.bases_per_second:,.0f}", f"{result['bases_per_second']['best']:,.0f}",
            _percent(speed.mfu), _ratio(ours, speed),
            _scaled(result.get("model_flops_per_base"), 1e6, ",.0f"), _scaled(result.get("peak_bytes"), 2**30, ".1f"),
            _scaled(result.get("bytes_per_base"), 1e3, ",.1f"),
            " / ".join(f"{number:.2f}" for number in result.get("bases_per_chunk", [])) or "-",
            f"{sum(started.values()):.1f}",
        ])  # fmt: skip
        rows[-1] = [f"{name}{_partial(speed)}", *rows[-1][1:]]
    header = [
        "check", "windows", "bases per window", "bases/s (median)", "(best)", "MFU", "speedup of ours",
        "MFLOP per base", "peak GiB", "kB per base", "bases per chunk", "start, s",
    ]  # fmt: skip
    source = next((speed.entry.result["source"] for speed in found if "source" in speed.entry.result), "")
    return f"{method(source)}\n\n{table(header, rows)}" if rows else "Not measured."


def method(source: str) -> str:
    """How speeds are measured."""
    return (
        f"Steps of forward, backward and fused AdamW under bf16 autocast on one batch ({source or 'nothing measured'}; "
        "masked as in pretraining). Weights are untrained; the router is calibrated to about four bases per chunk. "
        "`start` is the time of building the model and of the first step, which compiles and tunes kernels.\n\n"
        "- `published`: our kernels, but both projections of every BiMamba-2 layer are computed once per direction, "
        "inputs and outputs are reversed in memory, and chunks are padded to the longest sequence in the batch.\n"
        "- `transformer-*`: full attention, rotary positions and SwiGLU MLPs at single-base resolution.\n"
        "- `bimamba2-*`: BiMamba-2 layers at single-base resolution, with our kernels.\n\n"
        "MFU is the achieved model FLOP/s (`ldarnet.model.cost`: matrix products of forward and backward pass, without "
        "recomputation) relative to the dense bf16 peak in the data sheet of the GPU."
    )


def profiles(entries: Sequence[Entry], paper: Paper | None) -> str:
    """Time by part of the step, measured and estimated, and the longest kernels."""
    found = [entry for entry in entries if entry.check.group == plan.PROFILE and entry.done]
    return "\n\n".join(breakdown(entry, Speed(entry).paper(paper)) for entry in found) or "Not measured."


def breakdown(entry: Entry, estimate: PaperStep | None) -> str:
    """Time of one profiled step by part."""
    result = entry.result
    spent, wall = by_part(result["operations"]), result["step_seconds"]
    busy = sum(result["kernels"].values()) or sum(spent.values())
    paper = estimated_parts(estimate) if estimate else {}
    names = sorted({*spent, *paper}, key=lambda name: -max(spent.get(name, 0.0), paper.get(name, 0.0)))
    rows = [_part_row(name, spent.get(name), paper.get(name), busy) for name in names]
    rows.append(_part_row("not attributed", busy - sum(spent.values()), None, busy))
    rows.append(_part_row("total", busy, sum(paper.values()) if paper else None, busy))
    launches = f", {result['launches']:,} launches" if result["launches"] else ""
    estimated = f" (estimate: {estimate.launches:,})" if launches and estimate else ""
    text = (
        f"**{size_text(Speed(entry))}**: step of {1e3 * wall:.1f} ms, device busy for {1e3 * busy:.1f} ms "
        f"({busy / wall:.0%}){launches}{estimated}:\n\n"
        + table(("part", "ms", "fraction", "estimate, ms at least", "measured / estimate"), rows)
    )
    longest = Counter(result["kernels"]).most_common(MAX_KERNELS)
    if longest:
        kernels = [(f"`{name[:MAX_NAME_CHARS]}`", f"{1e3 * s:.2f}", f"{s / busy:.1%}") for name, s in longest]
        text += f"\n\nTop {len(kernels)} kernels:\n\n" + table(("kernel", "ms", "fraction"), kernels)
    return text


def by_part(operations: dict[str, float]) -> dict[str, float]:
    """Seconds by part of the step."""
    spent: defaultdict[str, float] = defaultdict(float)
    for name, seconds in operations.items():
        spent[next((part for part, pattern in PARTS.items() if re.search(pattern, name)), REST)] += seconds
    return dict(spent)


def estimated_parts(estimate: PaperStep) -> dict[str, float]:
    """Estimated seconds by part, with the names of `PARTS`."""
    spent: defaultdict[str, float] = defaultdict(float)
    for name, seconds in estimate.seconds.items():
        spent[name.partition(", ")[0] if name.startswith("matrix products") else name] += seconds
    return dict(spent)


def _part_row(name: str, spent: float | None, paper: float | None, busy: float) -> tuple[str, ...]:
    return (
        name,
        "-" if spent is None else f"{1e3 * spent:.2f}",
        "-" if spent is None else f"{spent / busy:.1%}",
        "-" if paper is None else f"{1e3 * paper:.2f}",
        f"{spent / paper:.2f}" if spent is not None and paper else "-",
    )


def _ratio(ours: Speed | None, other: Speed) -> str:
    if ours is None or not ours.bases_per_second or not other.bases_per_second:
        return "-"
    return f"{ours.bases_per_second / other.bases_per_second:.2f}"


def _percent(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.1%}"


def _scaled(number: float | None, unit: float, form: str) -> str:
    return "-" if number is None else format(number / unit, form)


def _partial(speed: Speed) -> str:
    count = len(speed.entry.result.get("seconds", []))
    return "" if speed.entry.done else f" (stopped after {count} timed steps)"
