"""Read metrics, boundary samples, launches and configuration from a run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ldarnet.errors import UserError
from ldarnet.interpret.figures import drawable
from ldarnet.io import run_files
from ldarnet.io.files import read_errors
from ldarnet.io.records import read_yaml
from ldarnet.io.run_lines import (
    LaunchLine,
    SampleLine,
    TrainLine,
    ValidLine,
    loss_name,
    read_launches,
    read_metrics_lines,
    read_samples,
)

MAX_LINES = 1500
"""Approximate maximum number of training lines to draw; runs with more lines are subsampled."""


@dataclass(frozen=True)
class WarningSpan:
    """A warning: name, message, and the first and last logged step at which it was active."""

    name: str
    text: str
    first: int
    last: int


@dataclass(frozen=True)
class RunRecord:
    """Contents of a run folder.

    Attributes:
        folder: run folder.
        train: training lines in order. Long runs are subsampled to about MAX_LINES evenly spaced lines plus the last
            line. A line also includes the checkpoint stalls and memory peaks of the lines dropped before it.
        valid: all validation lines in order.
        samples: boundaries along one held-out window, one line per validation.
        launches: time, software versions and hardware of each launch.
        config: `section.key` -> value.
        warnings: all warnings, past and active.
    """

    folder: Path
    train: list[TrainLine]
    valid: list[ValidLine]
    samples: list[SampleLine]
    launches: list[LaunchLine]
    config: dict[str, Any]
    warnings: list[WarningSpan]

    @classmethod
    def read(cls, folder: Path, *, advance: Callable[[int], object] = lambda _: None) -> RunRecord:
        """Read a run, finished or running.

        Args:
            folder: run folder.
            advance: progress callback; called with the size, in bytes, of each line read from metrics.jsonl.

        Raises:
            UserError: `folder` is not the folder of a pretraining run, the run has not logged a step, or a file in the
                folder is malformed.
        """
        _check_run_folder(folder)
        train, valid, warnings = _metrics(folder / run_files.METRICS, advance)
        samples, launches = read_samples(folder), read_launches(folder)
        return cls(folder, train, valid, samples, launches, read_flat_config(folder / run_files.CONFIG), warnings)

    @property
    def steps(self) -> np.ndarray:
        """Number of completed steps at each training line."""
        return np.array([line["step"] for line in self.train])

    @property
    def valid_steps(self) -> np.ndarray:
        """Number of completed steps at each validation line."""
        return np.array([line["step"] for line in self.valid])

    @property
    def last(self) -> TrainLine:
        """The last training line."""
        return self.train[-1]

    @property
    def loss_name(self) -> str:
        """Key of the loss: `mlm_loss`, or `next_base_loss` of a causal model."""
        return loss_name(self.last)

    @property
    def stages(self) -> int:
        """Number of stages with a router."""
        return len(self.last["bases_per_chunk"])

    def series(self, key: str, *, split: str = "train") -> dict[str, np.ndarray]:
        """Extract the values of a metric from all lines of a split, as arrays with one value per line.

        Args:
            key: key of the metric in metrics.jsonl.
            split: `train` or `valid`.

        Returns:
            Name -> array; NaN where a value is missing or not finite. A scalar metric gets the name ``""``, the entries
            of a list get the names `stage 0`, `stage 1`, ..., and the entries of a mapping get their keys as names. The
            dict is empty if no line has the metric.
        """
        lines = [_entries(line.get(key)) for line in getattr(self, split)]
        names = dict.fromkeys(name for line in lines for name in line)
        return {name: drawable(np.array([line.get(name, np.nan) for line in lines], dtype=float)) for name in names}


def _entries(value: Any) -> dict[str, float]:
    if isinstance(value, dict):
        named = value
    elif isinstance(value, list):
        named = {f"stage {number}": entry for number, entry in enumerate(value)}
    else:
        named = {} if value is None else {"": value}
    return {name: np.nan if entry is None else entry for name, entry in named.items()}


def _check_run_folder(folder: Path) -> None:
    """Check that a folder contains a pretraining run.

    Raises:
        UserError: the folder does not contain a pretraining run.
    """
    path = folder.resolve()
    if is_finetuning_run(path) or (path.match(run_files.fold_name("*")) and is_finetuning_run(path.parent)):
        raise UserError(
            f"{folder}: the folder of a fold or of a fine-tuning run; pass the run folder to ldarnet report, or "
            "compare runs with ldarnet compare NAME=FOLDER --out DIR"
        )
    if (folder / run_files.SWEEP_CONFIG).is_file():
        raise UserError(
            f"{folder}: not a pretraining run but a sweep; read {run_files.SUMMARY_TEXT} and "
            f"{run_files.COMPARISON}/{run_files.COMPARISON_REPORT} in this folder"
        )
    if not (folder / run_files.METRICS).is_file():
        raise UserError(
            f"{folder}: not a run folder: no {run_files.METRICS}; pass the folder of a run that has logged a step"
        )


def is_finetuning_run(folder: Path) -> bool:
    """Whether a folder holds a fine-tuning run that has started."""
    return (folder / run_files.DATA).is_file() or any(folder.glob(run_files.FOLD_METRICS))


def _metrics(
    path: Path, advance: Callable[[int], object]
) -> tuple[list[TrainLine], list[ValidLine], list[WarningSpan]]:
    """Read subsampled training lines, all validation lines and all warnings from metrics.jsonl."""
    with read_errors(path), path.open("rb") as file:
        every = max(1, -(-sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b"")) // MAX_LINES))
    train: list[TrainLine] = []
    valid: list[ValidLine] = []
    spans, dropped, count = _WarningSpans(), None, 0
    for line in read_metrics_lines(path, advance=advance):
        if line["split"] == "valid":
            valid.append(line)
            continue
        spans.add(line)
        if dropped is not None:
            line = _merge(dropped, line)
        if count % every == 0:
            train.append(line)
            dropped = None
        else:
            dropped = line
        count += 1
    if dropped is not None:
        train.append(dropped)
    if not train:
        raise UserError(f"{path}: no training step logged yet; try again after the first logged step")
    return train, valid, spans.found


def _merge(dropped: TrainLine, line: TrainLine) -> TrainLine:
    """Add the checkpoint stall and memory peaks of a dropped line to the next line."""
    merged, memory = line.copy(), dropped.get("memory", {})
    if "checkpoint_stall_seconds" in dropped:
        merged["checkpoint_stall_seconds"] = dropped["checkpoint_stall_seconds"] + line.get(
            "checkpoint_stall_seconds", 0.0
        )
    if memory:
        current = line.get("memory", {})
        merged["memory"] = memory | {name: max(peak, memory.get(name, peak)) for name, peak in current.items()}
    return merged


class _WarningSpans:
    """Merges warnings with the same name on consecutive training lines into spans."""

    def __init__(self) -> None:
        self.found: list[WarningSpan] = []
        self._before: dict[str, int] = {}

    def add(self, line: TrainLine) -> None:
        """Add the next training line."""
        active = {}
        for name, text in line.get("warnings", {}).items():
            index = self._before.get(name)
            if index is None:
                index = len(self.found)
                self.found.append(WarningSpan(name, text, line["step"], line["step"]))
            self.found[index] = WarningSpan(name, text, self.found[index].first, line["step"])
            active[name] = index
        self._before = active


def read_flat_config(path: Path) -> dict[str, Any]:
    """Read config.yaml as a flat dict, `section.key` -> value; empty if the file is missing.

    Raises:
        UserError: the file is malformed.
    """
    if not path.is_file():
        return {}
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise UserError(f"{path}: not a configuration; restore the file, or delete it to write the report without it")
    flat: dict[str, Any] = {}
    for section, keys in tree.items():
        named = (
            {f"{section}.{key}": value for key, value in keys.items()} if isinstance(keys, dict) else {section: keys}
        )
        flat |= {str(name): value for name, value in named.items()}
    return flat
