"""Summary of a fine-tuning run, printed at launch."""

from typing import Any

from ldarnet.console import format_count
from ldarnet.finetuning.arms import arm_of
from ldarnet.finetuning.job import FinetuneJob
from ldarnet.runtime.distributed import World
from ldarnet.tasks.metrics import metric_name


def describe(job: FinetuneJob, world: World) -> list[str]:
    """Summarize a run line by line: task, source, classes, model, protocol, engine and run folder, then notes."""
    config, data = job.config, job.data
    lengths = [len(row) for row in job.ids]
    spread = f"{min(lengths):,}" if min(lengths) == max(lengths) else f"{min(lengths):,} to {max(lengths):,}"
    tested = f"{len(job.test):,} test rows" if job.test is not None else "no test rows"
    folds = f"{len(job.selected_folds)} of {format_count(len(job.folds), 'fold')}"
    selection = f"{arm_of(config).selection} selected by validation {metric_name(config.evaluation.metric)}"
    return [
        f"task     {data.task} ({data.suite}), {len(job.rows):,} train/validation rows, {tested}, {spread} bases",
        f"source   {data.source}",
        job.targets.describe(job.rows.labels),
        f"model    {_model(job)}",
        f"protocol {folds}, {selection}; {_schedule(job)}",
        f"engine   {_engine(job, world)}",
        f"run      {config.run.dir}",
        *(f"note     {note}" for note in job.notes),
    ]


def _model(job: FinetuneJob) -> str:
    config, arm = job.config, arm_of(job.config)
    if job.network is None:
        return arm.description
    parameters = sum(parameter.numel() for parameter in job.network.parameters())
    kind: Any = job.network.config if hasattr(job.network, "config") else None
    layout = f", layout {kind.arch_layout}" if kind is not None else ""
    origin = f"from {config.checkpoint}" if config.checkpoint else "new weights"
    return f"{arm.description}, {parameters:,} parameters{layout}, {origin}"


def _schedule(job: FinetuneJob) -> str:
    training, optimizer = job.config.training, job.config.optimizer
    if (fit := arm_of(job.config).fit) is not None:
        return fit
    return (
        f"lr {optimizer.lr:g}, batch {training.batch}, at most {training.epochs} epochs, early stopping after "
        f"{training.stop_patience} without improvement; plateau {job.config.schedule.plateau}"
    )


def _engine(job: FinetuneJob, world: World) -> str:
    precision = "bf16 autocast, fp32 weights" if job.autocast else "fp32"
    if job.network is None:
        return world.device_label
    users = {name: [op for op, chosen in job.kernels.items() if chosen == name] for name in job.kernels.values()}
    kernels = "; ".join(f"{name}: {', '.join(operations)}" for name, operations in users.items())
    ranks = f"{world.size} x {world.device_label}"
    return f"{ranks}, ZeRO stage {job.config.training.zero_stage}, {precision}; kernels {kernels}"
