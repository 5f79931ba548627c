"""Settings of a sweep: points of its search space, their names, and their fine-tuning configurations."""

import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldarnet.config import FinetuneConfig, load_config
from ldarnet.config.sweep import Range, SweepConfig
from ldarnet.errors import UserError
from ldarnet.finetuning.arms import arm_of
from ldarnet.io import run_files
from ldarnet.tasks.registry import find_task

SEARCHABLE = ("checkpoint", "model", "optimizer", "schedule", "training", "data.max_length")
"""Keys that may differ between settings of a task. Settings are comparable only with equal rows, folds and metric."""
PATHS = ("checkpoint", "data.folder", "data.train", "data.valid", "data.test")
MAX_NAME_CHARS = 120

Space = dict[str, list[Any] | Range]
"""Search space: list of values or range, by dotted key of the fine-tuning configuration."""


@dataclass(frozen=True)
class Setting:
    """A point of the search space.

    Attributes:
        name: valid folder name, for example `lr=0.0001,batch=64`.
        values: dotted key of the fine-tuning configuration -> value.
    """

    name: str
    values: dict[str, Any]


def setting(values: dict[str, Any]) -> Setting:
    """Create a setting; its name contains the last part of each key, or the full keys if the last parts are ambiguous.

    The order of the keys does not matter.
    """
    values = dict(sorted(values.items()))
    short = [key.rsplit(".", 1)[-1] for key in values]
    names = short if len(set(short)) == len(short) else list(values)
    full_name = (
        ",".join(f"{name}={_text(value)}" for name, value in zip(names, values.values(), strict=True)) or "as-given"
    )
    name = re.sub(r"[^\w.+=,-]", "_", full_name, flags=re.ASCII)[:MAX_NAME_CHARS]
    if name != full_name:
        name += f"-{hashlib.sha256(full_name.encode()).hexdigest()[:8]}"
    return Setting(name, values)


def grid(space: Space) -> list[Setting]:
    """Settings for all combinations of the listed values; values of the last key vary fastest."""
    return [setting(dict(zip(space, values, strict=True))) for values in itertools.product(*space.values())]


def trial_config(config: SweepConfig, task: str | None, values: dict[str, Any]) -> FinetuneConfig:
    """Build the fine-tuning configuration of a task, with `run.dir` set to the folder of all trials.

    Args:
        config: sweep configuration.
        task: value to set for `task`; None to keep the configured value.
        values: values to set, by dotted key.

    Raises:
        UserError: the file `finetune`, an entry of `set` or a value is invalid.
    """
    changes = {"run.dir": str(trials_folder(config)), **({} if task is None else {"task": task})}
    if config.checkpoint is not None:
        changes["checkpoint"] = str(config.checkpoint)
    overrides = [
        f"{key}={json.dumps(value, default=str)}" for key, value in {**config.set, **changes, **values}.items()
    ]
    loaded = load_config(config.finetune, overrides, schema=FinetuneConfig)
    loaded.refuse_credentials()
    arm_of(loaded)
    return loaded


def check_sweep(config: SweepConfig, task: str | None) -> tuple[SweepConfig, FinetuneConfig]:
    """Validate a sweep before anything runs.

    Args:
        config: sweep configuration.
        task: any task of the sweep.

    Returns:
        The sweep configuration, in which the values of `space` have the types of the fine-tuning configuration; and the
        fine-tuning configuration that all trials share.

    Raises:
        UserError: a key or value of `space` is invalid; `space` varies a key that makes the scores of settings
            incomparable; an input file is missing; `search` lists a fold that does not exist; or ASHA is enabled, but
            cannot be used.
    """
    base = trial_config(config, task, {})
    _check_paths(base)
    space: Space = {}
    for key, values in config.space.items():
        ends = (values.low, values.high) if isinstance(values, Range) else values
        parsed = [trial_config(config, task, {key: value}) for value in ends]
        _check_paths(*parsed)
        read = [get_value(trial, key) for trial in parsed]
        space[key] = values if isinstance(values, Range) else read
        if not f"{key}.".startswith(tuple(f"{part}." for part in SEARCHABLE)):
            raise UserError(
                f"space.{key}: settings that differ in this key cannot be compared; searchable keys: "
                f"{', '.join(SEARCHABLE)}"
            )
        if any(read.count(value) > 1 for value in read):
            raise UserError(f"space.{key}={ends}: duplicate value; list each value once")
    if config.search.kind == "grid":
        for point in grid(space):
            trial_config(config, task, point.values)
    _check_folds(config, base)
    _check_asha(config, base)
    return config.model_copy(update={"space": space}), base


def get_value(config: FinetuneConfig, key: str) -> Any:
    """Value of a dotted key, as JSON data."""
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def folds_of(base: FinetuneConfig, task: str | None = None) -> list[int]:
    """Folds to train. A task with its own validation rows has only fold 0."""
    if base.data.valid is not None if task is None else "valid" in find_task(task).rows:
        return [0]
    return list(range(base.folds.count)) if base.folds.only is None else sorted(set(base.folds.only))


def trials_folder(config: SweepConfig) -> Path:
    """Folder of all trials; each has a subfolder `<task>/<setting>/fold<k>`."""
    return config.sweep.dir.absolute() / run_files.TRIALS


def _check_paths(*configs: FinetuneConfig) -> None:
    """Check that input files exist, so that a missing file is reported once, not by every trial."""
    for config in configs:
        for key in PATHS:
            if (path := get_value(config, key)) is not None and not Path(path).exists():
                raise UserError(f"{key}={path}: no such file or folder; fix the path in `finetune`, `set` or `space`")


def _check_folds(config: SweepConfig, base: FinetuneConfig) -> None:
    if missing := sorted(set(config.search.folds or []) - set(folds_of(base))):
        raise UserError(f"search.folds={config.search.folds}: no fold {missing[0]}; choose from {folds_of(base)}")


def _check_asha(config: SweepConfig, base: FinetuneConfig) -> None:
    if config.search.asha is None:
        return
    arm = arm_of(base)
    if not arm.trains_epochs:
        raise UserError(
            f"search.asha: ASHA needs epochs, but {arm.option}={arm.name} does not train in epochs; set "
            "search.asha=null"
        )
    if "training.epochs" in config.space:
        raise UserError(
            "search.asha: ASHA cannot compare settings that differ in training.epochs; remove training.epochs from "
            "space, or set search.asha=null"
        )
    if base.training.epochs <= config.search.asha.grace:
        raise UserError(
            f"search.asha: ASHA never stops a fold, because search.asha.grace={config.search.asha.grace} is not below "
            f"training.epochs={base.training.epochs}; lower search.asha.grace, or set search.asha=null"
        )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
