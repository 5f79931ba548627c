"""What a run folder tells: metrics, samples of boundaries, starts and configuration."""

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

MOST_LINES = 1500
"""Lines of training metrics that are drawn; of more, about so many."""


@dataclass(frozen=True)
class Warned:
    """A warning: what for, the sentence, and the first and last step it was in force at."""

    name: str
    text: str
    first: int
    last: int


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder tells it.

    Attributes:
        folder: of the run.
        train: lines of training metrics, in order; of many, some `MOST_LINES` evenly spread ones and the last, each
            with the stalls and the peaks of memory of those left out before it.
        valid: lines of validation metrics, in order.
        samples: boundaries along one stretch, one line a validation.
        starts: when, where and with which versions.
        config: every key, `section.key` -> value.
        warned: every warning that there was.
    """

    folder: Path
    train: list[dict[str, Any]]
    valid: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    starts: list[dict[str, Any]]
    config: dict[str, Any]
    warned: list[Warned]

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read a run, finished or under way.

        Raises:
            UserError: it is no run, has not recorded a step yet, or a file of it cannot be read.
        """
        if not (folder / run_files.METRICS).is_file():
            raise UserError(f"{folder}: no run, or none that has taken a step; it holds no {run_files.METRICS}")
        train, valid, warned = _metrics(folder / run_files.METRICS)
        samples, starts = (list(_json_lines(folder / name)) for name in (run_files.BOUNDARIES, run_files.LAUNCHES))
        return cls(folder, train, valid, samples, starts, _config(folder / run_files.CONFIG), warned)

    @property
    def steps(self) -> np.ndarray:
        """Completed steps at each training line."""
        return np.array([line["step"] for line in self.train])

    @property
    def last(self) -> dict[str, Any]:
        """The last training line."""
        return self.train[-1]

    @property
    def stages(self) -> int:
        """Stages with a router."""
        return len(self.last["bases_per_chunk"])

    def series(self, key: str, *, among: str = "train") -> dict[str, np.ndarray]:
        """The curves of a key, by name: one for a number, one an entry for a list (`stage 0`, ...) or a mapping.

        Where a line has no value it is not a number; a key that no line has gives none.
        """
        lines = [_entries(line.get(key)) for line in getattr(self, among)]
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


def _metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[Warned]]:
    """Evenly spread training lines and the last, all validation lines, all warnings; of a file held line by line."""
    with read_errors(path), path.open(encoding="utf-8") as file:
        every = max(1, -(-sum(1 for _ in file) // MOST_LINES))
    train: list[dict[str, Any]] = []
    valid: list[dict[str, Any]] = []
    warnings, dropped, seen = _Warnings(), None, 0
    for line in _json_lines(path):
        if line.get("split") == "train":
            warnings.look(line)
            if dropped is not None:
                line = _joined(dropped, line)
            if seen % every == 0:
                train.append(line)
                dropped = None
            else:
                dropped = line
            seen += 1
        else:
            valid.append(line)
    if dropped is not None:
        train.append(dropped)
    if not train:
        raise UserError(f"{path}: no training step is recorded yet; train first")
    return train, valid, warnings.found


def _joined(dropped: dict[str, Any], line: dict[str, Any]) -> dict[str, Any]:
    """A line that also tells of the time of the dropped one before it: all stalls, and the highest peaks of memory."""
    joined, stall, memory = dict(line), "checkpoint_stall_seconds", dropped.get("memory", {})
    if stall in dropped:
        joined[stall] = dropped[stall] + line.get(stall, 0.0)
    if memory:
        own = line.get("memory", {})
        joined["memory"] = memory | {name: max(peak, memory.get(name, peak)) for name, peak in own.items()}
    return joined


class _Warnings:
    """Joins the warnings of lines that follow each other."""

    def __init__(self) -> None:
        self.found: list[Warned] = []
        self._before: dict[str, int] = {}

    def look(self, line: dict[str, Any]) -> None:
        """The next training line."""
        now = {}
        for name, text in line.get("warnings", {}).items():
            place = self._before.get(name)
            if place is None:
                place = len(self.found)
                self.found.append(Warned(name, text, line["step"], line["step"]))
            self.found[place] = Warned(name, text, self.found[place].first, line["step"])
            now[name] = place
        self._before = now


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file; none if there is no file, and without a last one that is being written."""
    if not path.is_file():
        return
    with read_errors(path), path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            try:
                yield json.loads(text)
            except ValueError:
                if not text.endswith("\n"):
                    return
                raise UserError(f"{path}, line {number}: damaged; delete this line") from None


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with read_errors(path):
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {f"{section}.{key}": value for section, keys in tree.items() for key, value in (keys or {}).items()}
