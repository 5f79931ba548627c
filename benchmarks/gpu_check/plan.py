"""The checks, the most important ones first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.gpu_check.results import Check
from ldarnet.ops import backends_of, operations

RATES, BACKENDS, KERNELS, SPEED, WAITS, PROFILE, ENGINE, TRAINING, LEARNING, OTHER = (
    "rates", "backends", "kernels", "speed", "waits", "profile", "engine", "training", "learning", "other",
)  # fmt: skip
BF16, FP32 = "bfloat16", "float32"
PUBLISHED = "published"
ALLOCATOR = "PYTORCH_ALLOC_CONF"
COMMON_ENVIRONMENT = {ALLOCATOR: "expandable_segments:True"}
"""As in training."""
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
DENSE_ATTENTION = {"attention": "torch"}
"""PyTorch's attention, which uses FlashAttention for windows of equal length in half precision."""
AS_IN_TRAINING = "as in training"
CHUNK_CAPACITY = 1.5
"""Static number of chunks relative to the target; the weights are new, so the number varies more than in training."""
COMPILATION_LIMIT = 300.0
"""Timeout in seconds of checks that compile and tune kernels for the first time."""


@dataclass(frozen=True)
class CheckSizes:
    """Sizes of the checks.

    Attributes:
        device: `cuda` or `cpu`.
        model: preset of the model.
        transformer: full attention without a hierarchy, see `benchmarks.baselines.CONFIGURATIONS`.
        stack: Mamba-2 layers without a hierarchy.
        learner: preset of the model whose loss is checked.
        length: bases per window, unless other lengths are compared.
        windows: windows per batch.
        lengths: other lengths to compare, with as many bases per batch as the largest batch.
        steps: maximum number of timed steps.
        seconds: maximum duration of the timed steps of a check.
        engine_steps: timed steps of the DeepSpeed engine.
        resume_steps: steps before and after a checkpoint.
        learning: settings of the learning check.
        rates: settings of `benchmarks.gpu_check.machine.rates`.
    """

    device: str
    model: str
    transformer: str
    stack: str
    learner: str
    length: int
    windows: tuple[int, ...]
    lengths: tuple[int, ...]
    steps: int
    seconds: float
    engine_steps: int
    resume_steps: int
    learning: dict[str, int]
    rates: dict[str, int]


H200 = CheckSizes(
    device="cuda",
    model="ldarnet-110m",
    transformer="transformer-110m",
    stack="bimamba2-110m",
    learner="quickstart",
    length=4096,
    windows=(8, 32),
    lengths=(1024, 16384, 65536),
    steps=10,
    seconds=6.0,
    engine_steps=30,
    resume_steps=5,
    learning={"length": 512, "windows": 16, "steps": 200},
    rates={"copy_bytes": 2**32, "size": 8192, "rows": 2**15, "width": 1024},
)
DRY_RUN = CheckSizes(
    device="cpu",
    model="tiny",
    transformer="transformer-tiny",
    stack="bimamba2-tiny",
    learner="tiny",
    length=64,
    windows=(2, 4),
    lengths=(32, 128),
    steps=1,
    seconds=1.0,
    engine_steps=2,
    resume_steps=2,
    learning={"length": 64, "windows": 8, "steps": 20},
    rates={"copy_bytes": 2**20, "size": 64, "rows": 64, "width": 32},
)


def machine(sizes: CheckSizes, command: str) -> Check:
    """The check that reports the machine and the versions; it runs in every call."""
    return check("machine", RATES, "machine:machine", {"device": sizes.device, "command": command})


def plan(sizes: CheckSizes) -> list[Check]:
    """All checks, in the order in which they run."""
    return [
        *first_checks(sizes),
        *engine_checks(sizes),
        *training_checks(sizes),
        *comparisons(sizes),
        *learning_checks(sizes),
        *other_checks(sizes),
    ]


def environment(sizes: CheckSizes) -> dict[str, str]:
    """Environment variables of worker processes."""
    return COMMON_ENVIRONMENT if sizes.device == "cuda" else COMMON_ENVIRONMENT | NO_GPU


def first_checks(sizes: CheckSizes) -> Iterator[Check]:
    """Rates, kernels, speed, host synchronizations and profile of the model."""
    yield check("rates of the device", RATES, "machine:rates", {"device": sizes.device, **sizes.rates})
    yield backends("backends, first start", sizes)
    yield from verifications(sizes, BF16)
    for windows in sizes.windows:
        yield cell(f"training, {windows} windows", SPEED, sizes, limit=COMPILATION_LIMIT, windows=windows)
    yield cell("host synchronizations", WAITS, sizes, kind="synchronization", windows=sizes.windows[0])
    for windows in sizes.windows:
        yield cell(f"profile, {windows} windows", PROFILE, sizes, kind="kernels", windows=windows)


def engine_checks(sizes: CheckSizes) -> Iterator[Check]:
    """The DeepSpeed engine, as training uses it and with one switch changed."""
    settings = {**one_rank(sizes), "steps": sizes.engine_steps}
    switches: dict[str, dict[str, Any]] = {
        AS_IN_TRAINING: {},
        "throughput timer on": {"timer": True},
        "batches not pinned": {"pinned": False},
        "without TF32": {"tf32": False},
        f"chunk capacity {CHUNK_CAPACITY:g}": {"chunk_capacity": CHUNK_CAPACITY},
    }
    for name, switch in switches.items():
        yield check(f"DeepSpeed, {name}", ENGINE, "training:engine", {**settings, **switch})
    off = check("DeepSpeed, expandable segments off", ENGINE, "training:engine", settings)
    yield replace(off, environment=environment(sizes) | {ALLOCATOR: "expandable_segments:False"})


def training_checks(sizes: CheckSizes) -> Iterator[Check]:
    """Backends again, in a new process that finds the results of the first start; skipped steps, save and resume."""
    settings = {**one_rank(sizes), "steps": sizes.resume_steps}
    yield replace(backends("backends, second start", sizes), environment=environment(sizes))
    yield check("step with a NaN loss", TRAINING, "training:planted_nan", settings)
    yield check("save and resume", TRAINING, "training:resume", settings, limit=120)


def comparisons(sizes: CheckSizes) -> Iterator[Check]:
    """The published implementation, and other lengths."""
    for windows in reversed(sizes.windows):
        yield cell(f"published, {windows} windows", SPEED, sizes, windows=windows, arrangement=PUBLISHED)
    for length, windows in batches(sizes):
        yield cell(f"training, {length:,} bases", SPEED, sizes, length=length, windows=windows)
    for length, windows in batches(sizes):
        yield cell(f"published, {length:,} bases", SPEED, sizes, length=length, windows=windows, arrangement=PUBLISHED)
    yield cell("equivalence with the published implementation", OTHER, sizes, kind="agreement", arrangement=PUBLISHED)


def learning_checks(sizes: CheckSizes) -> Iterator[Check]:
    """Whether the loss falls."""
    settings = {"device": sizes.device, "model": sizes.learner, **sizes.learning}
    yield check("loss on real windows", LEARNING, "speed:learning", settings)


def other_checks(sizes: CheckSizes) -> Iterator[Check]:
    """What is measured if time is left: float32, activation checkpointing, other models and backends."""
    yield from verifications(sizes, FP32)
    yield cell("equivalence in float32", OTHER, sizes, kind="agreement", arrangement=PUBLISHED, dtype=FP32)
    most = sizes.windows[-1]
    for stages in ([0], [0, 1]):
        name = f"activation checkpointing, stages {', '.join(map(str, stages))}"
        yield cell(name, SPEED, sizes, windows=most, checkpointed=stages)
    for length, windows in [(sizes.length, most), *batches(sizes)]:
        name, ops = f"{sizes.transformer}, {length:,} bases", DENSE_ATTENTION
        yield cell(name, SPEED, sizes, model=sizes.transformer, length=length, windows=windows, ops=ops)
        name, fewer = f"{sizes.stack}, {length:,} bases", max(windows // 2, 1)  # 3x the activation memory per base
        yield cell(name, SPEED, sizes, model=sizes.stack, length=length, windows=fewer)
    for operation in operations():
        for backend in backends_of(operation):
            other = cell(f"training, {operation}={backend}", SPEED, sizes, windows=most, ops={operation: backend})
            yield replace(other, function=other.function.replace(":cell", ":alternative"))


def batches(sizes: CheckSizes) -> list[tuple[int, int]]:
    """Other lengths and their numbers of windows."""
    bases = sizes.length * sizes.windows[-1]
    return [(length, max(bases // length, 1)) for length in sizes.lengths]


def verifications(sizes: CheckSizes, dtype: str) -> Iterator[Check]:
    """All backends of all operations, compared with the reference."""
    for operation in operations():
        settings = {
            "device": sizes.device, "dtype": dtype, "operation": operation, "full_size": sizes.device == "cuda",
        }  # fmt: skip
        yield check(f"{operation}, {dtype}", KERNELS, "machine:verification", settings, limit=COMPILATION_LIMIT)


def backends(name: str, sizes: CheckSizes) -> Check:
    """Selection of backends."""
    settings = {"device": sizes.device, "dtype": BF16, "model": sizes.model}
    return check(name, BACKENDS, "machine:backends", settings, limit=COMPILATION_LIMIT)


def cell(name: str, group: str, sizes: CheckSizes, limit: float = 90.0, **settings: Any) -> Check:
    """A measurement of `benchmarks.measure` in bf16; `settings` are fields of its `Cell`."""
    common = {
        "kind": "training", "model": sizes.model, "length": sizes.length, "windows": sizes.windows[0],
        "device": sizes.device, "dtype": BF16, "steps": sizes.steps, "seconds": sizes.seconds,
    }  # fmt: skip
    return check(name, group, "speed:cell", {**common, **settings}, limit)


def one_rank(sizes: CheckSizes) -> dict[str, Any]:
    """Settings of a DeepSpeed engine with ZeRO stage 1."""
    return {"model": sizes.model, "length": sizes.length, "windows": sizes.windows[0], "zero_stage": 1}


def check(name: str, group: str, function: str, settings: dict[str, Any], limit: float = 90.0) -> Check:
    """A check whose function is in this package."""
    return Check(name, group, f"benchmarks.gpu_check.{function}", settings, limit)
