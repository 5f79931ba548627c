"""Dataclasses of a fine-tuning run: the job, the launch context and the result of a fold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ldarnet.config import FinetuneConfig
from ldarnet.finetuning.display import FinetuneProgress
from ldarnet.finetuning.evaluation import Outputs
from ldarnet.finetuning.targets import Targets, targets_of
from ldarnet.io import run_files
from ldarnet.runtime.distributed import World
from ldarnet.runtime.signals import StopRequest
from ldarnet.runtime.timers import StepTimers
from ldarnet.tasks.dataset import Examples, TaskData


@dataclass(frozen=True)
class FinetuneJob:
    """Configuration, data and initial network, shared by all folds of a run.

    Attributes:
        config: configuration of the run, with learning rate, batch and precision resolved.
        data: splits of the task, before cropping and subsampling.
        rows: rows for training and validation, cropped to data.max_length.
        ids: token ids of `rows`, (L,) uint8 each.
        test: test rows, cropped; None without a test split.
        test_ids: token ids of the test rows.
        folds: fold number -> indices of its training and validation rows in `rows`.
        free: (number of test rows,) bool, True for leak-free rows; None if there is no test split, or if leak-free rows
            were not requested.
        network: network with its initial weights, identical on every rank and in every fold; None for arms without a
            network.
        kernels: operation -> kernel backend.
        autocast: whether matrix products run in bf16.
        notes: caveats to report with the results, one sentence each.
        checkpoint: SHA-256 of the checkpoint that initializes the network; None for random initialization.
    """

    config: FinetuneConfig
    data: TaskData
    rows: Examples
    ids: list[np.ndarray]
    test: Examples | None
    test_ids: list[np.ndarray]
    folds: dict[int, tuple[np.ndarray, np.ndarray]]
    free: np.ndarray | None
    network: nn.Module | None
    kernels: dict[str, str]
    autocast: bool
    notes: list[str]
    checkpoint: str | None

    @property
    def targets(self) -> Targets:
        """Targets of the task."""
        return targets_of(self.data.task_type, self.data.classes)

    def fitted_targets(self, fold: int) -> Targets:
        """Targets with the statistics of the training rows of a fold."""
        return self.targets.fitted(self.rows.labels[self.folds[fold][0]])

    @property
    def selected_folds(self) -> list[int]:
        """Folds to train (folds.only), in ascending order."""
        return [fold for fold in self.folds if self.config.folds.only is None or fold in self.config.folds.only]

    def folder(self, fold: int) -> Path:
        """Output folder of a fold."""
        return Path(self.config.run.dir) / run_files.fold_name(fold)

    def reported(self, fold: int) -> tuple[Examples, list[np.ndarray]]:
        """Rows that a fold is evaluated on, and their token ids: test rows if there are any, else validation rows."""
        if self.test is not None:
            return self.test, self.test_ids
        index = self.folds[fold][1]
        return self.rows.subset(index), [self.ids[row] for row in index]

    def record(self) -> dict[str, Any]:
        """Content of data.json."""
        data = self.data
        return {
            "task": data.task,
            "suite": data.suite,
            "source": data.source,
            "fingerprint": data.fingerprint,
            "task_type": data.task_type,
            self.targets.names_key: data.classes,
            "rows": {
                "train": len(data.train),
                "valid": len(data.valid or []),
                "test": len(data.test or []),
                "used": len(self.rows),
                "test_leak_free": None if self.free is None else int(self.free.sum()),
            },
            "notes": self.notes,
            "checkpoint": self.checkpoint,
        }


@dataclass(frozen=True)
class LaunchContext:
    """State of one launch on this rank: process group, watchdog timers, stop request, console."""

    world: World
    timers: StepTimers
    request: StopRequest
    display: FinetuneProgress


@dataclass(frozen=True)
class FoldResult:
    """Result of training one fold.

    Attributes:
        network: network with the weights of the best epoch; None for arms without a network.
        epochs: number of epochs trained.
        best: line of metrics.jsonl for the best epoch.
        before: bases per chunk before training, by router stage.
        seconds: training time in seconds.
        outputs: outputs of the trained model for the rows that `FinetuneJob.reported` returns.
    """

    network: nn.Module | None
    epochs: int
    best: dict[str, Any]
    before: list[float]
    seconds: float
    outputs: Outputs
