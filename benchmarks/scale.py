"""How fast and how dear a run on a cluster would be: reckoned from a description of it, before anything is rented.

    python -m benchmarks.scale benchmarks/clusters/h100.yaml [key=value ...]    a row for each number of GPUs

A step is `accumulation` micro-steps, an exchange and an update, one after the other, as DeepSpeed runs them here (only
stage 3 overlaps them). What a device does by itself is measured, or its speed is assumed; the rest is reckoned:

    micro-step    windows * length / speed, no less than it takes to launch it; times the unevenness of ranks
    unevenness    ranks wait in every micro-step for the one with most chunks: of N ranks with w windows each, whose
                  chunks vary by `spread` of their mean, it has about 1 + spread * sqrt(2 ln N / w) times as many as the
                  mean, and the share of the model inside the chunking takes as much longer
    exchange      fp32, with P parameters: all-reduce of 4P bytes (a step in stages 0 and 1, a micro-step in 2) and
                  all-gather of 4P after the update (1, 2); two all-gathers and a reduce-scatter a micro-step in stage 3
    all-reduce    of S bytes on M nodes of g GPUs: 2S (g-1)/g / inside + 2S (M-1)/M / between; the others take half
    waits         `latency` * log2(N) for each of 2 + 2 * accumulation small exchanges
    update        28 bytes of memory traffic a parameter, of P / N of them from stage 1 on
    saving        a stall while 12P bytes go to the memory of rank 0 (8P of them all-reduced first, tensor by tensor,
                  from stage 1 on); writing them goes on beside training, unless the next save comes before it is done

Not reckoned: the many small gathers of stage 3, waiting for data, faults.
"""

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from pydantic import Field, ValidationError

from ldarnet.config.schema import Section
from ldarnet.errors import UserError
from ldarnet.markdown import table
from ldarnet.model import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.model.cost import Cost, cost

GIGA = 10**9
PRICED_BASES = 100 * GIGA
FP32 = 4
UPDATE_BYTES = 28
"""Of a parameter's update: weight, gradient and two moments are read, all but the gradient written."""


class Device(Section):
    """What one device does by itself."""

    peak: float = Field(gt=0, description="Operations per second at most, as utilisation is reckoned from.")
    bases_per_second: float | None = Field(None, gt=0, description="Measured speed of forward and backward passes.")
    utilisation: float = Field(
        0.4, gt=0, le=1, description="Share of the peak that is assumed where it is not measured."
    )
    launch: float = Field(0.0, ge=0, description="Seconds that it takes at least to launch a micro-step.")
    update: float | None = Field(None, gt=0, description="Measured seconds of an update of all parameters.")
    memory_bandwidth: float = Field(gt=0, description="Bytes per second, for updates that are not measured.")


class Links(Section):
    """What goes between devices, in achieved bytes per second."""

    inside: float = Field(gt=0, description="Of a device to the others of its node.")
    between: float = Field(gt=0, description="Of a node to other nodes, all cards together.")
    latency: float = Field(gt=0, description="Seconds of a small exchange between two devices.")
    host: float = Field(gt=0, description="From a device to its host's memory.")
    disk: float = Field(gt=0, description="To the disk or store that checkpoints go to.")


class ClusterPlan(Section):
    """A cluster and a run on it."""

    title: str
    device: Device
    links: Links
    devices: list[int] = Field(description="Numbers of devices, a row for each.")
    per_node: int = Field(ge=1, description="Devices of a node.")
    price: float = Field(ge=0, description="Of a device for an hour.")
    model: str = Field(description="A preset.")
    length: int = Field(ge=8, description="Bases per window.")
    batch: int = Field(ge=1, description="Windows per step.")
    micro_batch: int = Field(ge=1, description="Windows that a device has memory for at once.")
    zero_stage: int = Field(1, ge=0, le=3)
    recompute: list[int] = Field([], description="Stages computed again in the backward pass.")
    spread: float = Field(0.1, ge=0, description="Standard deviation of the chunks of a window over their mean.")
    every: int = Field(1000, ge=1, description="Steps between checkpoints.")


@dataclass(frozen=True)
class Prediction:
    """A run on some devices: seconds of a step by what they go to, and what follows from it.

    Attributes:
        devices: number of them.
        micro_batch: windows of a device in a micro-step.
        accumulation: micro-steps.
        bases: of a step.
        compute: seconds of forward and backward passes on a device with the mean number of chunks.
        waiting: seconds more on the one with most.
        exchange: seconds of gradients and weights on the links, and of small exchanges.
        update: seconds.
        stall: seconds that training stands still for a checkpoint.
        writing: seconds that it is written beside training.
        utilisation: share of the devices' peak.
        price: of 100 billion bases.
    """

    devices: int
    micro_batch: int
    accumulation: int
    bases: int
    compute: float
    waiting: float
    exchange: float
    update: float
    stall: float
    writing: float
    utilisation: float
    price: float

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.compute + self.waiting + self.exchange + self.update


def predict(plan: ClusterPlan, devices: int) -> Prediction:
    """Reckon a run on some devices.

    Raises:
        UserError: they cannot share the batch evenly.
    """
    if plan.batch % devices:
        raise UserError(f"batch={plan.batch}: {devices} devices cannot share it evenly; choose a multiple of {devices}")
    own = plan.batch // devices
    accumulation = next(
        number for number in range(1, own + 1) if own % number == 0 and own // number <= plan.micro_batch
    )
    micro_batch = own // accumulation
    spent = cost(LDARNetConfig.preset(plan.model), plan.length, activation_checkpointing=plan.recompute)
    device = plan.device
    speed = device.bases_per_second or device.utilisation * device.peak / spent.hardware_flops
    mean, slowest = (
        accumulation * max(micro_batch * plan.length / speed * factor, device.launch)
        for factor in (1.0, 1.0 + unevenness(spent, plan.spread, devices, micro_batch))
    )
    parameters, links = spent.parameters, Network(plan.links, devices, plan.per_node)
    exchange = links.exchange(plan.zero_stage, FP32 * parameters, accumulation)
    update = device.update or UPDATE_BYTES * parameters / device.memory_bandwidth
    update /= devices if plan.zero_stage else 1
    stall = 3 * FP32 * parameters / plan.links.host
    if plan.zero_stage:
        stall += links.all_reduce(2 * FP32 * parameters) + 2 * tensors(plan.model) * links.wait
    step, bases = slowest + exchange + update, plan.batch * plan.length
    writing = 3 * FP32 * parameters / plan.links.disk
    seconds = step + (stall + max(0.0, writing - plan.every * step)) / plan.every
    return Prediction(
        devices=devices,
        micro_batch=micro_batch,
        accumulation=accumulation,
        bases=bases,
        compute=mean,
        waiting=slowest - mean,
        exchange=exchange,
        update=update,
        stall=stall,
        writing=writing,
        utilisation=spent.training_flops * bases / (seconds * devices * device.peak),
        price=PRICED_BASES / bases * seconds / 3600 * devices * plan.price,
    )


def tensors(preset: str) -> int:
    """Number of a model's parameter tensors."""
    with torch.device("meta"):
        return len(list(LDARNetForMaskedLM(LDARNetConfig.preset(preset)).parameters()))


def unevenness(spent: Cost, spread: float, devices: int, windows: int) -> float:
    """By which part of the mean the device with most chunks takes longer than the mean."""
    parts = spent.group_by("part").items()
    inside = sum(part.forward_flops for name, part in parts if name == "main network") / spent.forward_flops
    return inside * spread * math.sqrt(2 * math.log(devices) / windows)


@dataclass(frozen=True)
class Network:
    """Devices in nodes, and what exchanges between all of them take, in seconds."""

    links: Links
    devices: int
    per_node: int

    @property
    def wait(self) -> float:
        """Of a small exchange."""
        return self.links.latency * math.log2(self.devices)

    def all_reduce(self, size: float) -> float:
        """Everyone gets the sum of `size` bytes: within nodes, and every part between them."""
        nodes = -(-self.devices // self.per_node)
        own = min(self.devices, self.per_node)
        inside = 2 * size * (own - 1) / own / self.links.inside
        return inside + 2 * size * (nodes - 1) / nodes / self.links.between

    def exchange(self, zero_stage: int, size: float, accumulation: int) -> float:
        """What a step exchanges of `size` bytes of gradients or weights, and its small exchanges."""
        whole = {0: 1.0, 1: 1.5, 2: accumulation + 0.5, 3: 1.5 * accumulation}[zero_stage]
        return whole * self.all_reduce(size) + (2 + 2 * accumulation) * self.wait


def report(plan: ClusterPlan) -> str:
    """A row for each number of devices, as Markdown."""
    rows = []
    for devices in plan.devices:
        it = predict(plan, devices)
        rows.append(
            (
                f"{devices:,}",
                f"{it.micro_batch} x {it.accumulation}",
                f"{it.step * 1e3:,.0f}",
                f"{it.bases / it.step / 1e6:,.1f}",
                f"{it.waiting / it.step:.1%}",
                f"{it.exchange / it.step:.1%}",
                f"{it.utilisation:.1%}",
                f"{it.price:,.0f}",
                f"{PRICED_BASES / it.bases * it.step / 3600:,.2f}",
                f"{it.stall:.2f}",
                f"{it.writing:.1f}",
            )
        )
    header = (
        "devices",
        "windows x micro-steps",
        "ms a step",
        "million bases/s",
        "waiting for chunks",
        "exchange",
        "MFU",
    )
    header += ("price of 100 Gb", "hours for 100 Gb", "stall of a save, s", "writing, s")
    speed = plan.device.bases_per_second
    basis = f"{speed:,.0f} bases/s of a device" if speed else f"an assumed {plan.device.utilisation:.0%} of the peak"
    notes = f"Reckoned, not measured: from {basis}, {plan.price:g} a device and hour (as `price` in the description)."
    return f"{plan.title}\n\n{table(header, rows)}\n\n{notes}"


def read_plan(path: Path, changes: list[str]) -> ClusterPlan:
    """Read a description and apply `key=value` or `section.key=value` changes.

    Raises:
        UserError: it is missing, or a key is not right.
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
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {error}; write changes as links.between=1.0e+11") from None
    except ValidationError as error:
        known = "; the keys are those of benchmarks/clusters/h100.yaml"
        wrong = "; ".join(f"{'.'.join(map(str, it['loc']))}: {it['msg'].lower()}" for it in error.errors())
        raise UserError(f"{path}: {wrong}{known}") from None


def main() -> int:
    """Run the program; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("plan", type=Path, help="YAML file, such as benchmarks/clusters/h100.yaml")
    parser.add_argument("changes", nargs="*", metavar="key=value")
    options = parser.parse_args()
    try:
        print(report(read_plan(options.plan, options.changes)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
