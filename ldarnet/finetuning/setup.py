"""Setup of a run: task, folds, leak-free test rows, network and resolved settings."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from ldarnet.config import FinetuneConfig
from ldarnet.errors import UserError
from ldarnet.finetuning.arms import arm_of
from ldarnet.finetuning.batches import check_batch_size, cropped, encoded
from ldarnet.finetuning.classifier import checkpoint_hash
from ldarnet.finetuning.folds import split, subset
from ldarnet.finetuning.job import FinetuneJob
from ldarnet.finetuning.records import DataRecord
from ldarnet.finetuning.targets import Targets, targets_of
from ldarnet.io import run_files
from ldarnet.io.files import write_json_atomic
from ldarnet.io.records import read_record
from ldarnet.io.retry import Retry
from ldarnet.model import LDARNetConfig
from ldarnet.model.folder import window_length
from ldarnet.model.kernel_options import kernel_options
from ldarnet.model.modeling import LDARNetPreTrainedModel
from ldarnet.ops import KernelOptions, choose_backends
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import autocast, check_same_kernels
from ldarnet.tasks.dataset import OWN, Examples, TaskData, open_task
from ldarnet.tasks.leakage import find_leak_free
from ldarnet.tasks.registry import find_task

LR, BATCH = 1e-4, 64
"""Learning rate and global batch if neither the configuration nor the task registry sets them."""
DATA_HINT = "choose another run.dir, or delete the run"


def prepare(config: FinetuneConfig, world: World, retry: Retry) -> FinetuneJob:
    """Open the task, build the network, and check that both match the configuration.

    Args:
        config: configuration of the run.
        world: ranks of the run.
        retry: policy for downloads.

    Raises:
        UserError: a check fails or the download is interrupted; raised on all ranks.
    """
    data = world.on_main(lambda: _open(config, retry))  # rank 0 downloads first; the other ranks read the cache
    with world.together():
        data = data or _open(config, retry)
        config = resolve(config, data, autocast(config.training.precision, world))
        rows, folds = _rows_and_folds(config, data)
        in_bf16 = config.training.precision == "bf16"
        job = _job(config, data, rows, folds, world.device.type, in_bf16)
        for fold in job.selected_folds:
            check_fold(job, fold, world.size)
    check_same_kernels(job.kernels, world)
    fingerprint = world.from_main(lambda: data.fingerprint)
    with world.together():
        if data.fingerprint != fingerprint:
            raise UserError(
                f"rank {world.rank} reads different rows of {data.task} than rank 0; make data.folder and data.cache "
                "refer to the same files on every rank"
            )
    return job


def resolve(config: FinetuneConfig, data: TaskData, in_bf16: bool) -> FinetuneConfig:
    """Resolve learning rate, batch and precision.

    Learning rate and batch come from the configuration, else from the task registry, else from the defaults.
    """
    known = find_task(config.task) if data.suite != "own" and config.task is not None else None
    optimizer, training = config.optimizer, config.training
    lr = optimizer.lr or (known.lr if known else None) or LR
    batch = training.batch or (known.batch if known else None) or BATCH
    sections = {
        "optimizer": optimizer.model_copy(update={"lr": lr}),
        "training": training.model_copy(update={"batch": batch, "precision": "bf16" if in_bf16 else "fp32"}),
    }
    return config.model_copy(update=sections)


def check_fold(job: FinetuneJob, fold: int, ranks: int) -> None:
    """Check that training rows and validation rows of a fold have different labels, and check the batch size.

    Raises:
        UserError: all training or all validation rows have the same label, or a batch is too small for the ranks.
    """
    train, valid = job.folds[fold]
    for index, use in ((train, "train"), (valid, "validate")):
        if (constant := job.targets.constant(job.rows.labels[index])) is not None:
            what, hint = constant
            raise UserError(f"fold {fold} of {job.data.task} would {use} on {len(index)} rows {what}; {hint}")
    if arm_of(job.config).trains_epochs:
        assert job.config.training.batch is not None
        check_batch_size(len(train), job.config.training.batch, job.config.training.accumulation, ranks)


def write_data_record(job: FinetuneJob) -> None:
    """Write data.json; on resume, first check that rows and checkpoint have not changed. Rank 0 only.

    Raises:
        UserError: the run was started with different rows or a different checkpoint.
    """
    path = Path(job.config.run.dir) / run_files.DATA
    now = job.record()
    if _started(path):
        before = read_record(path, DataRecord, hint=DATA_HINT)
        for key, what in (("fingerprint", "rows of the task"), ("checkpoint", "weights in the checkpoint")):
            if before[key] != now[key]:
                raise UserError(
                    f"{path.parent}: this run was started with different {what}; choose another run.dir, or delete "
                    "this one"
                )
    write_json_atomic(path, now, indent=2)


def _open(config: FinetuneConfig, retry: Retry) -> TaskData:
    data = config.data
    opened = open_task(
        config.task,
        folder=data.folder,
        cache=data.cache,
        retry=retry,
        train=data.train,
        valid=data.valid,
        test=data.test,
        sequence_column=data.sequence_column,
        label_column=data.label_column,
        name_column=data.name_column,
        task_type=config.task_type,
        bed=data.bed,
    )
    name = _recorded_name(config) if config.task is None else None
    return opened if name is None or name == opened.task else replace(opened, task=name)


def _recorded_name(config: FinetuneConfig) -> str | None:
    """Name of the task of a run that has been started; its data may have moved since."""
    path = Path(config.run.dir) / run_files.DATA
    if not _started(path):
        return None
    return read_record(path, DataRecord, hint=DATA_HINT).get("task")


def _started(record: Path) -> bool:
    """Whether a run has a data.json, `record`, and has started a fold."""
    return record.is_file() and any(record.parent.glob(run_files.FOLD_METRICS))


def _rows_and_folds(
    config: FinetuneConfig, data: TaskData
) -> tuple[Examples, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Rows for training and validation, and their folds; a task with a validation split has one fold."""
    rows, targets = data.train, targets_of(data.task_type, data.classes)
    if config.data.limit is not None:
        rows = rows.subset(subset(_strata(targets, rows), config.data.limit, config.run.seed))
    if data.valid is None:
        if config.folds.stratified and targets.strata(rows.labels) is None:
            raise UserError(
                f"folds.stratified=true: labels of task_type={data.task_type} have no classes to stratify by; set "
                "folds.stratified=false"
            )
        return rows, dict(enumerate(split(_strata(targets, rows), data.classes, config.folds)))
    both = Examples(
        [*rows.names, *data.valid.names],
        [*rows.sequences, *data.valid.sequences],
        np.concatenate([rows.labels, data.valid.labels]),
    )
    if config.folds.only is not None and 0 not in config.folds.only:
        raise UserError(
            f"folds.only={config.folds.only}: {data.task} has its own validation rows and therefore only fold 0; "
            "set folds.only=null"
        )
    return both, {0: (np.arange(len(rows)), np.arange(len(rows), len(both)))}


def _strata(targets: Targets, rows: Examples) -> np.ndarray:
    """Stratum of each row; all rows have the same stratum if labels have none."""
    strata = targets.strata(rows.labels)
    return np.zeros(len(rows), dtype=np.int64) if strata is None else strata


def _job(
    config: FinetuneConfig,
    data: TaskData,
    rows: Examples,
    folds: dict[int, tuple[np.ndarray, np.ndarray]],
    device: str,
    in_bf16: bool,
) -> FinetuneJob:
    notes, max_length = list(data.notes), config.data.max_length
    targets = targets_of(data.task_type, data.classes)
    rows, test = _cropped(rows, targets, max_length), data.test and _cropped(data.test, targets, max_length)
    ids, test_ids = encoded(rows.sequences), encoded(test.sequences if test else [])
    longer = sum(max_length is not None and len(sequence) > max_length for sequence in _all_sequences(data))
    if longer:
        notes.append(f"{longer:,} sequences were cropped to their {max_length} central bases")
    if data.valid is not None:
        origin = "rows of data.valid" if data.suite == OWN else "official validation rows"
        notes.append(f"validated on the {len(data.valid):,} {origin}, so there is only one fold")
    longest = max(map(len, ids))
    notes += _lengths(config, [*ids, *test_ids])
    free = None
    if data.test is not None and config.evaluation.leak_free is not None:
        known = _all_sequences(data)[: -len(data.test)]
        found = find_leak_free(data.test.sequences, known, config.evaluation.leak_free)
        free = found.kept
        notes.append(found.sentence())
    build = arm_of(config).build
    network = None if build is None else build(config, data.classes, longest)
    options = KernelOptions(config.ops)
    if isinstance(network, LDARNetPreTrainedModel):
        options = kernel_options(cast(LDARNetConfig, network.config))
    kernels = choose_backends(device, torch.bfloat16 if in_bf16 else torch.float32, options)
    initial = checkpoint_hash(config.checkpoint)
    return FinetuneJob(config, data, rows, ids, test, test_ids, folds, free, network, kernels, in_bf16, notes, initial)


def _cropped(rows: Examples, targets: Targets, max_length: int | None) -> Examples:
    sequences = [cropped(sequence, max_length) for sequence in rows.sequences]
    return Examples(rows.names, sequences, targets.cropped(rows.labels, max_length))


def _all_sequences(data: TaskData) -> list[str]:
    """Training, validation and test sequences, in this order."""
    splits = (data.train, data.valid, data.test)
    return [sequence for split in splits if split is not None for sequence in split.sequences]


def _lengths(config: FinetuneConfig, ids: list[np.ndarray]) -> list[str]:
    """Note on sequences longer than the pretraining windows; empty if there are none or the length is unknown."""
    window = window_length(config.checkpoint)
    longer = [len(row) for row in ids if window is not None and len(row) > window]
    if not longer:
        return []
    return [
        f"{len(longer):,} of {len(ids):,} sequences are longer than the pretraining windows of {window:,} bases "
        f"(longest: {max(longer):,}); set data.max_length to crop them"
    ]
