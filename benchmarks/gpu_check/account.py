"""The estimate of `benchmarks.gpu_account`, read from its JSON file, to compare measurements with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.results import read_object
from ldarnet.errors import UserError

RESULTS = Path(__file__).resolve().parents[1] / "results"
DATE = "- Date: "
DAY = "[0-9]" * 4 + "-[0-9][0-9]-[0-9][0-9]"
"""Pattern of the date at the start of the name of a results file."""


@dataclass(frozen=True)
class PaperStep:
    """Estimate of one training step.

    Attributes:
        bases: bases per step.
        launches: kernel launches.
        bytes: bytes read and written.
        seconds: minimum GPU time by part of the step.
    """

    bases: int
    launches: int
    bytes: int
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Minimum GPU time of the step in seconds."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Paper:
    """All estimates of a file.

    Attributes:
        name: name of the file.
        rates: assumed rates, by name.
        steps: estimates by (model, windows, bases per window, arrangement).
    """

    name: str
    rates: dict[str, float]
    steps: dict[tuple[str, int, int, str], PaperStep]


def newest(folder: Path = RESULTS) -> Path | None:
    """The most recent estimate in a folder, by the date in the file; None without any.

    Only files with the default name of `benchmarks.gpu_account` count. Those with another `--name` answer other
    questions, such as what the model cost before a change.
    """
    found = [(_date(read_object(path, "restore it")), path) for path in folder.glob(f"{DAY}-gpu-account.json")]
    return max(found, default=("", None))[1]


def read(path: Path | None) -> Paper | None:
    """Read the estimates of a file; None if `path` is None.

    Raises:
        UserError: the file cannot be read, or is not a results file of `benchmarks.gpu_account`.
    """
    if path is None:
        return None
    hint = "pass another file with --account"
    content = read_object(path, hint)
    try:
        rates = {name: float(rate) for name, rate in content["rates"].items()}
        steps = dict(_step(cell) for cell in content["cells"] if _is_comparable(cell["workload"]))
        return Paper(path.name, rates, steps)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not a results file of benchmarks.gpu_account ({reason}); {hint}") from None


def _is_comparable(work: dict[str, Any]) -> bool:
    """Whether this program measures such a step: one micro-step of pretraining, kernels of `auto`, counted chunks."""
    static = work.get("chunk_capacity_factor") is not None
    return work["program"] == "pretrain" and not work.get("ops") and work.get("accumulation", 1) == 1 and not static


def _step(cell: dict[str, Any]) -> tuple[tuple[str, int, int, str], PaperStep]:
    work, parts = cell["workload"], cell["parts"]
    key = (str(work["preset"]), int(work["windows"]), int(work["length"]), str(work["arrangement"]))
    launches, moved = (sum(int(part[name]) for part in parts.values()) for name in ("launches", "bytes"))
    seconds = {name: float(part["seconds"]) for name, part in parts.items()}
    return key, PaperStep(int(cell["bases"]), launches, moved, seconds)


def _date(content: dict[str, Any]) -> str:
    lines = content.get("made_with")
    return next((str(line) for line in lines if str(line).startswith(DATE)), "") if isinstance(lines, list) else ""
