"""Size and duration of an ablation, estimated before anything runs: `describe_plan(config)`."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ldarnet import markdown
from ldarnet.ablation.arms import AblationArm, bases_of, resolve_arms
from ldarnet.ablation.downstream import downstream_tasks, finetune_config
from ldarnet.ablation.sizing import size_table
from ldarnet.alphabet import VOCAB_SIZE
from ldarnet.config import FinetuneConfig
from ldarnet.config.ablation import AblationConfig
from ldarnet.config.resources import TrialResources
from ldarnet.console import format_duration, format_si
from ldarnet.model import LDARNetLanguageModel, language_model
from ldarnet.tasks.registry import Task

CALIBRATION_STEPS = 3
CALIBRATION_BASES = 2**15
"""Maximum number of bases in a step of the calibration."""


@dataclass(frozen=True)
class ArmEstimate:
    """Training cost of an arm in model FLOPs.

    Attributes:
        runs: number of runs.
        pretraining: FLOPs of all pretraining runs, including the learning rate search.
        downstream: FLOPs of all fine-tuning runs, at the maximum number of epochs.
    """

    runs: int
    pretraining: float
    downstream: float


def describe_plan(config: AblationConfig) -> str:
    """Describe arms, sizes, FLOPs and estimated hours of an ablation.

    Raises:
        UserError: the configuration is invalid.
    """
    arms, finetune, tasks = resolve_arms(config), finetune_config(config), downstream_tasks(config)
    estimates = {name: estimate(config, arm, finetune, tasks) for name, arm in arms.items()}
    reference = arms[config.ablation.reference]
    speed, source = config.plan.flops_per_second, "plan.flops_per_second"
    if speed is None:
        speed, source = calibrate(reference, config.resources.pretrain)
    steps = reference.config.training.steps
    lines = [
        f"ablation: {config.ablation.dir}: {len(arms)} arms, {sum(one.runs for one in estimates.values()):,} runs",
        f"pretraining: {bases_of(reference.config):,} bases per run ({steps:,} steps), seeds "
        f"{', '.join(map(str, config.ablation.seeds))}; {_describe_search(config)}",
        f"downstream: {', '.join(task.key for task in tasks) or 'none'}"
        + (f"; {', '.join(config.downstream.modes)}" if tasks else ""),
        "",
        size_table({name: arm.sized for name, arm in arms.items()}),
        "",
        _cost_table(estimates, speed),
        "",
        *_describe_masks(arms),
        *_describe_time(config, estimates, speed, source),
    ]
    return "\n".join(lines)


def estimate(
    config: AblationConfig, arm: AblationArm, finetune: FinetuneConfig | None, tasks: list[Task]
) -> ArmEstimate:
    """Estimate the cost of an arm.

    Args:
        config: configuration of the ablation.
        arm: the arm after sizing.
        finetune: fine-tuning configuration; None without downstream tasks.
        tasks: downstream tasks.
    """
    seeds, lrs = len(config.ablation.seeds), len(config.lr.values) if len(config.lr.values) > 1 else 0
    bases = seeds * bases_of(arm.config) + lrs * bases_of(arm.config, config.lr.steps)
    per_base, downstream = arm.sized.cost.training_flops, 0.0
    if finetune is not None:
        read = sum(_rows(task, finetune) * min(max(task.length), finetune.data.max_length or 2**31) for task in tasks)
        # A probe reads every row once, forward only.
        passes = {"probe": 1 / 3, "finetune": finetune.training.epochs * _folds(finetune)}
        downstream = seeds * read * sum(passes[mode] for mode in config.downstream.modes) * per_base
    runs = lrs + seeds * (1 + len(tasks) * len(config.downstream.modes)) + 1
    return ArmEstimate(runs, bases * per_base, downstream)


def calibrate(arm: AblationArm, resources: TrialResources) -> tuple[float, str]:
    """Measure the training speed of an arm on this machine: forward and backward passes on random bases.

    Returns:
        Model FLOP/s of one run with all its ranks, assuming linear scaling; and a description of the measurement.
    """
    device = torch.device("cuda" if torch.cuda.is_available() and resources.gpus != 0 else "cpu")
    threads, before = max(int(resources.cpus / resources.ranks), 1), torch.get_num_threads()
    length = arm.config.data.length
    rows = max(min(arm.config.training.batch // resources.ranks, CALIBRATION_BASES // length), 1)
    torch.set_num_threads(threads)
    try:
        model = language_model(arm.sized.config)
        model.to(device)  # type: ignore[arg-type]
        ids = torch.randint(4, (rows, length), device=device) % VOCAB_SIZE
        seconds = min(_step_seconds(model, ids) for _ in range(CALIBRATION_STEPS))
    finally:
        torch.set_num_threads(before)
    speed = rows * length * arm.sized.cost.training_flops / seconds * resources.ranks
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{threads} CPU threads"
    ranks = f", times {resources.ranks} ranks" if resources.ranks > 1 else ""
    return speed, f"measured on this machine: {arm.name}, {rows} windows of {length} bases, {where}{ranks}"


def _step_seconds(model: LDARNetLanguageModel, ids: torch.Tensor) -> float:
    autocast = ids.is_cuda

    def synchronize() -> None:
        if ids.is_cuda:
            torch.cuda.synchronize()

    synchronize()
    start = time.perf_counter()
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=autocast):
        loss = model(ids, labels=ids).loss
    loss.backward()
    model.zero_grad()
    synchronize()
    return time.perf_counter() - start


def _rows(task: Task, finetune: FinetuneConfig) -> int:
    rows = task.rows.get("train", 0)
    return min(rows, finetune.data.limit or rows)


def _folds(finetune: FinetuneConfig) -> int:
    return finetune.folds.count if finetune.folds.only is None else len(finetune.folds.only)


def _cost_table(estimates: Mapping[str, ArmEstimate], speed: float) -> str:
    rows = []
    for name, one in estimates.items():
        hours = [f"{flops / speed / 3600:.3g}" for flops in (one.pretraining, one.downstream)]
        rows.append((markdown.escape(name), one.runs, f"{one.pretraining:.3g}", f"{one.downstream:.3g}", *hours))
    header = ("arm", "runs", "pretraining FLOPs", "downstream FLOPs, at most", "pretraining hours", "downstream hours")
    return markdown.table(header, rows)


def _describe_search(config: AblationConfig) -> str:
    if len(config.lr.values) < 2:
        return "no learning rate search"
    length = "all steps" if config.lr.steps is None else f"{config.lr.steps:,} steps"
    return f"learning rate of each arm from {', '.join(f'{lr:g}' for lr in config.lr.values)} in {length}"


def _describe_masks(arms: Mapping[str, AblationArm]) -> list[str]:
    """Describe training masks, and which arms have others."""
    by_mask: dict[str, list[str]] = {}
    for name, arm in arms.items():
        data = arm.config.data
        by_mask.setdefault(f"{data.mask_rate:g} of the bases in spans of {data.mask_span}", []).append(name)
    return [f"training masks: {mask}: {', '.join(names)}" for mask, names in by_mask.items()]


def _describe_time(
    config: AblationConfig, estimates: Mapping[str, ArmEstimate], speed: float, source: str
) -> list[str]:
    seconds = [sum(one.pretraining for one in estimates.values()) / speed]
    seconds.append(sum(one.downstream for one in estimates.values()) / speed)
    lines = [
        f"speed: {format_si(speed, 'FLOP/s')} per run ({source})",
        f"time of all runs one after the other: {format_duration(seconds[0])} of pretraining and at most "
        f"{format_duration(seconds[1])} of fine-tuning",
    ]
    if config.ray.address is None and (trials := _concurrent(config)) > 1:
        lines.append(f"with {trials} runs at a time on this machine: at most {format_duration(sum(seconds) / trials)}")
    return lines


def _concurrent(config: AblationConfig) -> int:
    """Number of pretraining runs that fit on this machine at a time."""
    resources, gpus = config.resources.pretrain, torch.cuda.device_count()
    each = resources.gpus if resources.gpus is not None else float(resources.ranks if gpus else 0)
    fit = int((os.cpu_count() or 1) / resources.cpus)
    if each:
        fit = min(fit, int(gpus / each))
    return max(min(fit, config.resources.concurrent or fit), 1)
