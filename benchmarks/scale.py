"""Estimate speed and price of a training run on a cluster from a description of the cluster.

    python -m benchmarks.scale benchmarks/clusters/h100.yaml [key=value ...]    # one row per number of GPUs

The time of a step is the sum of the times of its micro-steps, of communication and of the optimizer update. Overlap of
communication and computation is ignored; in our DeepSpeed configuration, only ZeRO stage 3 overlaps them. The speed of
a single device is measured or assumed. The rest is estimated, for P fp32 parameters on N ranks (devices), each with w
windows per micro-step:

    micro-step    takes w * length / speed * (1 + imbalance), but at least the time to launch its kernels
    imbalance     relative extra time of the rank with the most chunks, for which all ranks wait in every micro-step:
                  about share * spread * sqrt(2 ln N / w), where `share` is the main network's share of the FLOPs and
                  `spread` is the relative standard deviation of the chunks per window
    communication stage 0: one all-reduce per step
                  stage 1: one all-reduce and one all-gather per step
                  stage 2: one all-reduce per micro-step and one all-gather per step
                  stage 3: two all-gathers and one reduce-scatter per micro-step
                  each of these collectives transfers 4P bytes
    all-reduce    S bytes on M nodes of g GPUs take 2S (g-1)/g / inside + 2S (M-1)/M / between, where `inside` and
                  `between` are the bandwidths in `Links`; an all-gather or reduce-scatter takes half as long
    latency       `latency` * log2(N) for each small collective; a step has 2 of them, and 2 more per micro-step
    update        28 bytes of memory traffic per parameter; from stage 1 on, each rank updates P / N parameters
    checkpoint    training stalls while 12P bytes are copied to the host of rank 0; from stage 1 on, 8P of these bytes
                  are all-reduced first, tensor by tensor. The write runs in the background and delays training only
                  if it takes longer than the interval between checkpoints

Not included: the many small gathers of stage 3, waiting for data, failures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from pydantic import Field, ValidationError

from benchmarks.record import ProgramParser, run_program
from ldarnet.config.sections import Section
from ldarnet.errors import UserError
from ldarnet.markdown import table
from ldarnet.model import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.model.cost import Cost, cost

GIGA = 10**9
PRICED_BASES = 100 * GIGA
FP32 = 4
UPDATE_BYTES = 28
"""Memory traffic per updated parameter: reads weight, gradient and two moments; writes weight and moments."""


class Device(Section):
    """Properties of a single device."""

    peak: float = Field(
        gt=0, description="Peak FLOP/s; used for MFU, and to estimate the speed if bases_per_second is not given."
    )
    bases_per_second: float | None = Field(
        None, gt=0, description="Measured speed of a forward and backward pass in bases/s."
    )
    utilization: float = Field(
        0.4, gt=0, le=1, description="Assumed fraction of peak FLOP/s; used if bases_per_second is not given."
    )
    launch: float = Field(0.0, ge=0, description="Minimum seconds per micro-step, due to kernel launches.")
    update: float | None = Field(None, gt=0, description="Measured seconds of an optimizer update of all parameters.")
    memory_bandwidth: float = Field(gt=0, description="Memory bandwidth in bytes/s; used if `update` is not given.")


class Links(Section):
    """Achieved bandwidths in bytes per second, and latency."""

    inside: float = Field(gt=0, description="Bandwidth from a device to the other devices in its node.")
    between: float = Field(gt=0, description="Bandwidth from a node to other nodes, summed over its network cards.")
    latency: float = Field(gt=0, description="Latency of a small message between two devices, in seconds.")
    host: float = Field(gt=0, description="Bandwidth from a device to host memory.")
    disk: float = Field(gt=0, description="Bandwidth to checkpoint storage.")


class ClusterPlan(Section):
    """A cluster and a training run on it."""

    title: str
    device: Device
    links: Links
    devices: list[int] = Field(description="Device counts, such as [8, 64]; the output table has one row per count.")
    per_node: int = Field(ge=1, description="Devices per node.")
    price: float = Field(ge=0, description="Price per device-hour.")
    model: str = Field(description="Model preset.")
    length: int = Field(ge=8, description="Bases per window.")
    batch: int = Field(ge=1, description="Windows per step.")
    micro_batch: int = Field(ge=1, description="Maximum number of windows per device and micro-step.")
    zero_stage: int = Field(1, ge=0, le=3)
    activation_checkpointing: list[int] = Field([], description="Stages with activation checkpointing.")
    spread: float = Field(0.1, ge=0, description="Relative standard deviation of the chunks per window.")
    every: int = Field(1000, ge=1, description="Steps between checkpoints.")


@dataclass(frozen=True)
class Prediction:
    """Estimate for a given number of devices; times are seconds per step unless stated otherwise.

    Attributes:
        micro_batch: windows per device and micro-step.
        accumulation: micro-steps per step.
        bases: bases per step.
        compute: forward and backward passes on a device with the mean number of chunks.
        waiting: extra time of the forward and backward passes on the device with the most chunks.
        communication: collectives on gradients and weights, and small collectives.
        update: optimizer step.
        stall: training stall, in seconds per checkpoint.
        writing: background write, in seconds per checkpoint.
        mfu: model FLOPs utilization.
        price: price of training on 100 billion bases, in the currency of the price per device-hour.
    """

    devices: int
    micro_batch: int
    accumulation: int
    bases: int
    compute: float
    waiting: float
    communication: float
    update: float
    stall: float
    writing: float
    mfu: float
    price: float

    @property
    def step(self) -> float:
        """Seconds per step."""
        return self.compute + self.waiting + self.communication + self.update


def predict(plan: ClusterPlan, devices: int) -> Prediction:
    """Estimate a training run on `devices` devices.

    Raises:
        UserError: the batch is not divisible by the number of devices.
    """
    if plan.batch % devices:
        raise UserError(f"batch={plan.batch}: not divisible by {devices} devices; choose a multiple of {devices}")
    per_device = plan.batch // devices
    accumulation = next(
        number
        for number in range(1, per_device + 1)
        if per_device % number == 0 and per_device // number <= plan.micro_batch
    )
    micro_batch = per_device // accumulation
    spent = cost(LDARNetConfig.preset(plan.model), plan.length, activation_checkpointing=plan.activation_checkpointing)
    device = plan.device
    speed = device.bases_per_second or device.utilization * device.peak / spent.hardware_flops
    mean, slowest = (
        accumulation * max(micro_batch * plan.length / speed * factor, device.launch)
        for factor in (1.0, 1.0 + imbalance(spent, plan.spread, devices, micro_batch))
    )
    parameters, links = spent.parameters, Network(plan.links, devices, plan.per_node)
    communication = links.communication(plan.zero_stage, FP32 * parameters, accumulation)
    update = device.update or UPDATE_BYTES * parameters / device.memory_bandwidth
    update /= devices if plan.zero_stage else 1
    stall = 3 * FP32 * parameters / plan.links.host
    if plan.zero_stage:
        stall += links.all_reduce(2 * FP32 * parameters) + 2 * tensors(plan.model) * links.small
    step, bases = slowest + communication + update, plan.batch * plan.length
    writing = 3 * FP32 * parameters / plan.links.disk
    seconds = step + (stall + max(0.0, writing - plan.every * step)) / plan.every
    return Prediction(
        devices=devices,
        micro_batch=micro_batch,
        accumulation=accumulation,
        bases=bases,
        compute=mean,
        waiting=slowest - mean,
        communication=communication,
        update=update,
        stall=stall,
        writing=writing,
        mfu=spent.training_flops * bases / (seconds * devices * device.peak),
        price=PRICED_BASES / bases * seconds / 3600 * devices * plan.price,
    )


def tensors(preset: str) -> int:
    """Count the parameter tensors of a model preset."""
    with torch.device("meta"):
        return len(list(LDARNetForMaskedLM(LDARNetConfig.preset(preset)).parameters()))


def imbalance(spent: Cost, spread: float, devices: int, windows: int) -> float:
    """Extra time of the device with the most chunks, as a fraction of the time of a device with the mean number."""
    parts = spent.group_by("part").items()
    inside = sum(part.forward_flops for name, part in parts if name == "main network") / spent.forward_flops
    return inside * spread * math.sqrt(2 * math.log(devices) / windows)


@dataclass(frozen=True)
class Network:
    """Estimates the time of collectives over all devices, in seconds."""

    links: Links
    devices: int
    per_node: int

    @property
    def small(self) -> float:
        """Time of a collective on a few bytes, in seconds."""
        return self.links.latency * math.log2(self.devices)

    def all_reduce(self, size: float) -> float:
        """Time of an all-reduce of `size` bytes within and between nodes, in seconds."""
        nodes = -(-self.devices // self.per_node)
        in_node = min(self.devices, self.per_node)
        inside = 2 * size * (in_node - 1) / in_node / self.links.inside
        return inside + 2 * size * (nodes - 1) / nodes / self.links.between

    def communication(self, zero_stage: int, size: float, accumulation: int) -> float:
        """Communication time per step in seconds, including small collectives.

        The weights have `size` bytes; the gradients have the same size.
        """
        all_reduces = {0: 1.0, 1: 1.5, 2: accumulation + 0.5, 3: 1.5 * accumulation}[zero_stage]
        return all_reduces * self.all_reduce(size) + (2 + 2 * accumulation) * self.small


def report(plan: ClusterPlan) -> str:
    """Markdown table with one row per number of devices."""
    rows = []
    for devices in plan.devices:
        found = predict(plan, devices)
        rows.append(
            (
                f"{devices:,}",
                f"{found.micro_batch} x {found.accumulation}",
                f"{found.step * 1e3:,.0f}",
                f"{found.bases / found.step / 1e6:,.1f}",
                f"{found.waiting / found.step:.1%}",
                f"{found.communication / found.step:.1%}",
                f"{found.mfu:.1%}",
                f"{found.price:,.0f}",
                f"{PRICED_BASES / found.bases * found.step / 3600:,.2f}",
                f"{found.stall:.2f}",
                f"{found.writing:.1f}",
            )
        )
    header = (
        "devices",
        "windows x micro-steps",
        "ms per step",
        "million bases/s",
        "waiting for chunks",
        "communication",
        "MFU",
    )
    header += ("price per 100 Gb", "hours per 100 Gb", "checkpoint stall, s", "checkpoint write, s")
    speed = plan.device.bases_per_second
    basis = f"{speed:,.0f} bases/s per device" if speed else f"an assumed {plan.device.utilization:.0%} of the peak"
    notes = f"Estimated, not measured: based on {basis} and a price of {plan.price:g} per device-hour."
    return f"{plan.title}\n\n{table(header, rows)}\n\n{notes}"


def read_plan(path: Path, changes: list[str]) -> ClusterPlan:
    """Read a cluster description and apply `key=value` or `section.key=value` overrides.

    Raises:
        UserError: the file is missing, or a key or value is invalid.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        for change in changes:
            key, _, value = change.partition("=")
            *sections, name = key.split(".")
            node = tree
            for section in sections:
                node = node[section]
            node[name] = yaml.safe_load(value)
        return ClusterPlan.model_validate(tree)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: invalid YAML or override ({error}); write overrides like links.between=1.0e+11"
        ) from None
    except ValidationError as error:
        known = "; see benchmarks/clusters/h100.yaml for the keys"
        wrong = "; ".join(f"{'.'.join(map(str, it['loc']))}: {it['msg'].lower()}" for it in error.errors())
        raise UserError(f"{path}: {wrong}{known}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the estimates."""
    parser = ProgramParser("scale", __doc__)
    parser.add_argument("plan", type=Path, help="cluster description, such as benchmarks/clusters/h100.yaml")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="overrides, such as batch=16384")
    options = parser.parse_args(arguments)
    print(report(read_plan(options.plan, options.changes)))


if __name__ == "__main__":
    run_program(main)
