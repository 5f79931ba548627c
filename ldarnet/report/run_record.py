"""Read metrics, boundary samples, launches and configuration from a run folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import read_errors

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
            line; each line includes the checkpoint stalls and memory peaks of the lines dropped before it.
        valid: all validation lines in order.
        samples: boundaries along one held-out window, one line per validation.
        launches: time, hardware and versions of each launch.
        config: `section.key` -> value.
        warnings: all warnings, past and active.
    """

    folder: Path
    train: list[dict[str, Any]]
    valid: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    launches: list[dict[str, Any]]
    config: dict[str, Any]
    warnings: list[WarningSpan]

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read a run, finished or running.

        Raises:
            UserError: `folder` holds no run with a logged step, or one of its files cannot be read.
        """
        if not (folder / run_files.METRICS).is_file():
            raise UserError(
                f"{folder}: not a run folder: no {run_files.METRICS}; pass the folder of a run that has logged a step"
            )
        train, valid, warnings = _metrics(folder / run_files.METRICS)
        samples, launches = (list(_json_lines(folder / name)) for name in (run_files.BOUNDARIES, run_files.LAUNCHES))
        return cls(folder, train, valid, samples, launches, _config(folder / run_files.CONFIG), warnings)

    @property
    def steps(self) -> np.ndarray:
        """Number of completed steps at each training line."""
        return np.array([line["step"] for line in self.train])

    @property
    def valid_steps(self) -> np.ndarray:
        """Number of completed steps at each validation line."""
        return np.array([line["step"] for line in self.valid])

    @property
    def last(self) -> dict[str, Any]:
        """The last training line."""
        return self.train[-1]

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
            Name -> array; NaN where a value is missing. A scalar metric gets the name ``""``, the entries of a list get
            the names `stage 0`, `stage 1`, ..., and the entries of a mapping get their keys as names. The dict is empty
            if no line has the metric.
        """
        lines = [_entries(line.get(key)) for line in getattr(self, split)]
        names = dict.fromkeys(name for line in lines for name in line)
        return {name: np.array([line.get(name, np.nan) for line in lines], dtype=float) for name in names}


def _entries(value: Any) -> dict[str, float]:
    if value is None:
        return {}
    if isinstance(value, dict):
        return {name: np.nan if entry is None else entry for name, entry in value.items()}
    if isinstance(value, list):
        return {f"stage {number}": entry for number, entry in enumerate(value)}
    return {"": value}


def _metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[WarningSpan]]:
    """Read subsampled training lines, all validation lines and all warnings from metrics.jsonl, line by line."""
    with read_errors(path), path.open(encoding="utf-8") as file:
        every = max(1, -(-sum(1 for _ in file) // MAX_LINES))
    train: list[dict[str, Any]] = []
    valid: list[dict[str, Any]] = []
    spans, dropped, count = _WarningSpans(), None, 0
    for line in _json_lines(path):
        if line.get("split") == "train":
            spans.add(line)
            if dropped is not None:
                line = _merge(dropped, line)
            if count % every == 0:
                train.append(line)
                dropped = None
            else:
                dropped = line
            count += 1
        else:
            valid.append(line)
    if dropped is not None:
        train.append(dropped)
    if not train:
        raise UserError(f"{path}: no training step logged yet; train first")
    return train, valid, spans.found


def _merge(dropped: dict[str, Any], line: dict[str, Any]) -> dict[str, Any]:
    """Add the checkpoint stall and memory peaks of a dropped line to the next line."""
    merged, stall, memory = dict(line), "checkpoint_stall_seconds", dropped.get("memory", {})
    if stall in dropped:
        merged[stall] = dropped[stall] + line.get(stall, 0.0)
    if memory:
        current = line.get("memory", {})
        merged["memory"] = memory | {name: max(peak, memory.get(name, peak)) for name, peak in current.items()}
    return merged


class _WarningSpans:
    """Merges warnings of the same name on consecutive lines into spans."""

    def __init__(self) -> None:
        self.found: list[WarningSpan] = []
        self._before: dict[str, int] = {}

    def add(self, line: dict[str, Any]) -> None:
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


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a JSON Lines file except an incomplete last line; yield nothing if the file is missing."""
    if not path.is_file():
        return
    with read_errors(path), path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            try:
                yield json.loads(text)
            except ValueError:
                if not text.endswith("\n"):
                    return
                raise UserError(f"{path}: line {number}: not valid JSON; delete this line") from None


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with read_errors(path):
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {f"{section}.{key}": value for section, keys in tree.items() for key, value in (keys or {}).items()}
