"""Minimum duration of the parts of a traced training step on an NVIDIA H200, from their bytes and FLOPs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
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

ASSUMED = {name: rate.value for name, rate in RATES.items()}
DATA_SHEET = {name: rate.data_sheet for name, rate in RATES.items()}


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


def rows(step: StepTrace, rates: Mapping[str, float] = ASSUMED) -> dict[str, Row]:
    """Totals of each part of a step at these rates, the slowest part first."""
    made = {}
    for part, operations in step.parts().items():
        bound: defaultdict[str, float] = defaultdict(float)
        for entry in operations:
            rate, seconds = lower_bound(entry, rates)
            bound[rate] += entry.calls * seconds
        extra = step.part_flops.get(part, 0.0)
        if (seconds := extra / rates["fused"]) > sum(bound.values()):
            bound = defaultdict(float, fused=seconds)
        made[part] = Row(
            sum(entry.calls * entry.launches for entry in operations),
            sum(entry.calls * entry.bytes for entry in operations),
            sum(entry.calls * entry.flops for entry in operations) + extra,
            dict(bound),
        )
    return dict(sorted(made.items(), key=lambda item: -item[1].seconds))


def lower_bound(entry: Operation, rates: Mapping[str, float]) -> tuple[str, float]:
    """Minimum seconds of a call, and the rate that sets them: that of its bytes or of its FLOPs."""
    kind = "fused" if entry.part in (SCAN, ATTENTION) else entry.dtype
    kind = kind if kind in rates else "float32"
    moving, computing = entry.bytes / rates["memory"], entry.flops / rates[kind]
    return ("memory", moving) if moving >= computing else (kind, computing)


def needed_rates(step: StepTrace, seconds: float) -> list[tuple[str, ...]]:
    """What each rate would have to be for the step to take `seconds`, if only this rate were higher.

    Returns:
        One row per rate: its name, the milliseconds that it sets, its assumed, needed and data sheet values.
    """

    def duration(**changes: float) -> float:
        return sum(row.seconds for row in rows(step, ASSUMED | changes).values())

    lines: list[tuple[str, ...]] = []
    for name, rate in RATES.items():
        spent = sum(row.bound.get(name, 0.0) for row in rows(step).values())
        low, high = rate.value, 1e3 * rate.value
        text = "none is enough"
        if duration(**{name: high}) <= seconds:
            while high > 1.0001 * low:
                middle = (low * high) ** 0.5
                low, high = (low, middle) if duration(**{name: middle}) <= seconds else (middle, high)
            text = f"{high / 1e12:,.1f}"
        assumed, data_sheet = f"{rate.value / 1e12:g}", f"{rate.data_sheet / 1e12:g} {rate.unit}"
        lines.append((name, f"{1e3 * spent:.1f}", assumed, text, data_sheet))
    return lines
