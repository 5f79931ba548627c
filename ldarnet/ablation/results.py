"""Results of an ablation, read from its folder: pretraining curves, speed, memory and statistics of each arm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ldarnet.ablation.records import (
    HINT,
    AblationRecord,
    ArmRecord,
    SeedRecord,
    StatisticsRecord,
    is_finished,
    pretraining_folder,
    read_ablation,
)
from ldarnet.config import load_config
from ldarnet.errors import UserError
from ldarnet.interpret.figures import drawable
from ldarnet.io import run_files
from ldarnet.io.records import MAX_REASON_CHARS, read_record
from ldarnet.io.run_lines import TrainLine, ValidLine, read_metrics_lines
from ldarnet.model import LDARNetConfig
from ldarnet.model.cost import cost
from ldarnet.printable import printable

NEXT_BASE = "next base"
"""Name of the loss of causal models, in bits per base."""
SAME_FLOPS = 0.02
"""Relative difference up to which numbers of FLOPs count as equal."""
MAX_POINTS = 200
"""Maximum number of training lines from which FLOPs are computed."""


@dataclass(frozen=True)
class Curve:
    """Validations of a run over training, V of them.

    Attributes:
        bases: (V,) bases seen.
        flops: (V,) model FLOPs spent on training, from the logged chunk lengths.
        losses: name of the validation mask -> loss in bits per masked base, (V,); NaN where it is not finite.
    """

    bases: np.ndarray
    flops: np.ndarray
    losses: dict[str, np.ndarray]

    def final(self, loss: str) -> float:
        """Loss at the end of training."""
        return float(self.losses[loss][-1])

    def at_flops(self, loss: str, flops: float) -> float:
        """Loss after this many FLOPs, interpolated between validations; NaN outside the curve.

        At up to `SAME_FLOPS` before the first validation, it is the loss of that validation.
        """
        values = self.losses[loss]
        if self.flops[0] * (1 - SAME_FLOPS) <= flops < self.flops[0]:
            return float(values[0])
        return float(np.interp(flops, self.flops, values, left=math.nan, right=math.nan))


@dataclass(frozen=True)
class SeedResult:
    """Pretraining of an arm with one seed.

    Attributes:
        seed: the seed.
        folder: run folder.
        missing: why there is no result; empty for finished runs.
        curve: validations; None if there is no result.
        bases_per_chunk: chunk length of each router at the last validation, in bases, on masked input.
        bases_per_second: median over the second half of training.
        memory: peak memory in bytes, of the GPU if there is one.
    """

    seed: str
    folder: Path
    missing: str = ""
    curve: Curve | None = None
    bases_per_chunk: tuple[float, ...] = ()
    bases_per_second: float = math.nan
    memory: float = math.nan


@dataclass(frozen=True)
class ArmResult:
    """Results of an arm.

    Attributes:
        name: name of the arm.
        record: entry of ablation.json.
        seeds: all seeds, with and without results.
        statistics: statistics of the boundaries; None if missing.
    """

    name: str
    record: ArmRecord
    seeds: tuple[SeedResult, ...]
    statistics: StatisticsRecord | None

    @property
    def curves(self) -> dict[str, Curve]:
        """Curves of the finished seeds."""
        return {one.seed: one.curve for one in self.seeds if one.curve is not None}

    @property
    def finished(self) -> list[SeedResult]:
        """Finished seeds."""
        return [one for one in self.seeds if one.curve is not None]


@dataclass(frozen=True)
class AblationResults:
    """Results of an ablation; `folder` is its folder, `record` its ablation.json."""

    folder: Path
    record: AblationRecord
    arms: dict[str, ArmResult]

    @property
    def reference(self) -> str:
        """Name of the reference arm."""
        return self.record["reference"]

    def losses(self) -> list[str]:
        """Names of the losses of all arms, masks of single bases first."""
        found = {name for arm in self.arms.values() for curve in arm.curves.values() for name in curve.losses}
        return sorted(found, key=lambda name: (len(name), name))

    def with_loss(self, loss: str) -> dict[str, ArmResult]:
        """Arms that have a loss."""
        return {
            name: arm for name, arm in self.arms.items() if any(loss in curve.losses for curve in arm.curves.values())
        }


def read_results(folder: Path) -> AblationResults:
    """Read the results of an ablation, finished or not.

    Raises:
        UserError: the folder is not an ablation, or a file is malformed.
    """
    record = read_ablation(folder)
    arms = {name: _read_arm(folder, name, arm) for name, arm in record["arms"].items()}
    return AblationResults(folder, record, arms)


def _read_arm(folder: Path, name: str, record: ArmRecord) -> ArmResult:
    path = folder / run_files.ARMS / name / run_files.STATISTICS
    statistics = read_record(path, StatisticsRecord, hint=HINT) if path.is_file() else None
    try:
        config = LDARNetConfig.from_dict(record["config"])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        where = folder / run_files.ABLATION_RECORD
        reason = printable(str(error).partition("\n")[0][:MAX_REASON_CHARS])
        raise UserError(f"{where}: arms.{name}.config: {reason}; {HINT}") from None
    seeds = [
        _read_seed(pretraining_folder(folder, name, seed), seed, status, record, config)
        for seed, status in record["seeds"].items()
    ]
    return ArmResult(name, record, tuple(seeds), statistics)


def _read_seed(folder: Path, seed: str, status: SeedRecord, record: ArmRecord, config: LDARNetConfig) -> SeedResult:
    if not is_finished(folder):
        reason = status.get("reason")
        return SeedResult(seed, folder, f"{status['state']}: {reason}" if reason else status["state"])
    train: dict[int, TrainLine] = {}
    valid: dict[int, ValidLine] = {}
    for line in read_metrics_lines(folder / run_files.METRICS):
        if line["split"] == "train":
            train[line["step"]] = line
        else:
            valid[line["step"]] = line
    if not train or not valid:
        return SeedResult(seed, folder, "metrics.jsonl has no training line or no validation line")
    lines = [train[step] for step in sorted(train)]
    checks = [valid[step] for step in sorted(valid)]
    losses = _losses(checks, folder, config)
    for name, values in losses.items():
        if not np.isfinite(values[-1]):
            return SeedResult(seed, folder, f"the {name} loss at the end of training is not finite")
    measured = checks[-1].get("bases_per_token")
    per_token = measured if measured is not None and 1 <= measured < math.inf else record.get("bases_per_token")
    steps, bases = [line["step"] for line in lines], [line["bases"] for line in lines]
    at = np.interp([line["step"] for line in checks], steps, bases)
    speeds = [line.get("bases_per_second") for line in lines[len(lines) // 2 :]]
    speeds = [speed for speed in speeds if speed is not None and math.isfinite(speed)]
    memory = [peak for line in lines if (peak := _peak(line)) is not None]
    return SeedResult(
        seed=seed,
        folder=folder,
        curve=Curve(at, np.interp(at, *_flops(lines, config, per_token)), losses),
        bases_per_chunk=tuple(math.nan if value is None else value for value in checks[-1]["bases_per_chunk"]),
        bases_per_second=float(np.median(speeds)) if speeds else math.nan,
        memory=max(memory, default=math.nan),
    )


def _peak(line: TrainLine) -> float | None:
    memory = line.get("memory", {})
    return memory.get("device", memory.get("host"))


def _losses(lines: list[ValidLine], folder: Path, config: LDARNetConfig) -> dict[str, np.ndarray]:
    """Losses in bits per base of each validation, by name; see `Curve`. A missing value is NaN."""
    if any("bits_per_base" in line for line in lines):  # a causal model
        return {NEXT_BASE: drawable(np.array([line.get("bits_per_base") for line in lines], dtype=float))}
    names = dict.fromkeys(name for line in lines for name in line.get("masks", {}))
    if names:
        scores = {name: [line.get("masks", {}).get(name, {}) for line in lines] for name in names}
    else:
        scores = {f"span{load_config(folder / run_files.CONFIG).data.mask_span}": lines}
    found = {
        name: [one.get("marginal_loss", one.get("mask_loss")) for one in of_mask] for name, of_mask in scores.items()
    }
    if config.tokenizer is not None:
        found = {name: values for name, values in found.items() if name != "span1"}
    return {name: drawable(np.array(values, dtype=float)) / math.log(2) for name, values in found.items()}


def _flops(
    lines: list[TrainLine], config: LDARNetConfig, bases_per_token: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Bases seen and FLOPs spent until then, at up to `MAX_POINTS` training lines, starting from zero."""

    @cache
    def per_base(length: int, lengths: tuple[float, ...]) -> float:
        return cost(config, length, lengths, bases_per_token=bases_per_token).training_flops

    ratio = config.expected_ratio or config.target_ratio
    expected = tuple(ratio ** (stage + 1) for stage in range(config.num_stages - 1))
    bases, flops = [0.0], [0.0]
    for part in _groups(lines):
        chunks = _mean_lengths(part, expected)
        spent = per_base(part[-1].get("length", 1024), chunks) * (part[-1]["bases"] - bases[-1])
        bases.append(part[-1]["bases"])
        flops.append(flops[-1] + spent)
    return np.array(bases), np.array(flops)


def _mean_lengths(lines: list[TrainLine], expected: tuple[float, ...]) -> tuple[float, ...]:
    """Mean of the logged chunk lengths of each router; the expected length where none is logged."""
    lengths = []
    for stage, guess in enumerate(expected):
        logged = [line["bases_per_chunk"][stage] for line in lines if stage < len(line["bases_per_chunk"])]
        known = [value for value in logged if value is not None and 1 <= value < math.inf]
        lengths.append(round(float(np.mean(known)), 2) if known else guess)
    return tuple(lengths)


def _groups(lines: list[TrainLine]) -> Iterator[list[TrainLine]]:
    """Split lines into up to `MAX_POINTS` groups of consecutive lines."""
    size = -(-len(lines) // MAX_POINTS)
    return (lines[start : start + size] for start in range(0, len(lines), size))
