"""Minimum duration of the parts of a traced training step on an NVIDIA H200, from their bytes and FLOPs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.fake_cuda.trace import SCAN, Operation, StepTrace

ATTENTION = "attention"


@dataclass(frozen=True)
class Rate:
    """Assumed rate of an H200: its value and that of the data sheet in bytes/s or FLOP/s, its unit, and the reason."""

    value: float
    data_sheet: float
    unit: str
    reason: str


RATES = {
    "memory": Rate(4.3e12, 4.8e12, "TB/s", "assumed: 90% of the 4.8 TB/s in NVIDIA's data sheet"),
    "bfloat16": Rate(650e12, 989e12, "TFLOP/s", "assumed for the widths of this model: 66% of the data sheet's 989"),
    "tf32": Rate(325e12, 495e12, "TFLOP/s", "assumed: 66% of the data sheet's 495, as for bfloat16"),
    "float32": Rate(
        45e12, 67e12, "TFLOP/s", "assumed: two thirds of the data sheet's 67, without TF32 (PyTorch's default)"
    ),
    "fused": Rate(200e12, 989e12, "TFLOP/s", "assumed for the scan and attention, whose tiles are small"),
}


@dataclass(frozen=True)
class Row:
    """Totals of one part of a step.

    Attributes:
        launches: kernel launches.
        bytes: bytes read and written.
        flops: FLOPs of matrix products.
        bound: minimum seconds by the name of the rate that sets them.
    """

    launches: int
    bytes: int
    flops: float
    bound: dict[str, float]

    @property
    def seconds(self) -> float:
        """Minimum duration of the part."""
        return sum(self.bound.values())


def rows(step: StepTrace) -> dict[str, Row]:
    """Totals of each part of a step, the slowest part first."""
    made = {}
    for part, operations in step.parts().items():
        bound: defaultdict[str, float] = defaultdict(float)
        for entry in operations:
            rate, seconds = lower_bound(entry)
            bound[rate] += entry.calls * seconds
        extra = step.part_flops.get(part, 0.0)
        if (seconds := extra / RATES["fused"].value) > sum(bound.values()):
            bound = defaultdict(float, fused=seconds)
        made[part] = Row(
            sum(entry.calls * entry.launches for entry in operations),
            sum(entry.calls * entry.bytes for entry in operations),
            sum(entry.calls * entry.flops for entry in operations) + extra,
            dict(bound),
        )
    return dict(sorted(made.items(), key=lambda item: -item[1].seconds))


def lower_bound(entry: Operation) -> tuple[str, float]:
    """Minimum seconds of a call, and the rate that sets them: that of its bytes or of its FLOPs."""
    kind = "fused" if entry.part in (SCAN, ATTENTION) else entry.dtype
    kind = kind if kind in RATES else "float32"
    moving, computing = entry.bytes / RATES["memory"].value, entry.flops / RATES[kind].value
    return ("memory", moving) if moving >= computing else (kind, computing)


def needed_rates(parts: Sequence[Row], seconds: float) -> list[tuple[str, ...]]:
    """What each rate would have to be for the parts to take `seconds`, if only this rate were higher.

    Returns:
        One row per rate: its name, the milliseconds that it sets, its assumed, needed and data sheet values.
    """
    excess, lines = sum(part.seconds for part in parts) - seconds, []
    for name, rate in RATES.items():
        spent = sum(part.bound.get(name, 0.0) for part in parts)
        needed = f"{rate.value * spent / (spent - excess) / 1e12:,.1f}" if spent > excess else "none is enough"
        lines.append(
            (name, f"{1e3 * spent:.1f}", f"{rate.value / 1e12:g}", needed, f"{rate.data_sheet / 1e12:g} {rate.unit}")
        )
    return lines
