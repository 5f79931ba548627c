"""The settings of a sweep: points of its space, their names, and the configuration that each one means."""

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
"""What may differ between settings of one task: not the rows, the folds or the metric, by which they are compared."""
PATHS = ("checkpoint", "data.folder", "data.train", "data.test")
MOST_LETTERS = 120

Space = dict[str, list[Any] | Range]
"""What is searched: list of values or range, by dotted key of fine-tuning."""


@dataclass(frozen=True)
class Setting:
    """A point of the space.

    Attributes:
        name: such as `lr=0.0001,batch=64`; a folder can have it.
        values: by dotted key of fine-tuning.
    """

    name: str
    values: dict[str, Any]


def setting(values: dict[str, Any]) -> Setting:
    """The setting with these values, named by the last parts of their keys where these are unambiguous.

    The order of the keys does not matter.
    """
    values = dict(sorted(values.items()))
    short = [key.rsplit(".", 1)[-1] for key in values]
    names = short if len(set(short)) == len(short) else list(values)
    whole = ",".join(f"{name}={_text(value)}" for name, value in zip(names, values.values(), strict=True)) or "as-given"
    name = re.sub(r"[^\w.+=,-]", "_", whole, flags=re.ASCII)[:MOST_LETTERS]
    if name != whole:
        name += f"-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
    return Setting(name, values)


def grid(space: Space) -> list[Setting]:
    """Every combination of the values, which are all in lists; the last key's change fastest."""
    return [setting(dict(zip(space, values, strict=True))) for values in itertools.product(*space.values())]


def describe(config: SweepConfig, task: str | None, values: dict[str, Any]) -> FinetuneConfig:
    """The configuration of fine-tuning on a task with the values of a setting; its run.dir is that of all trials.

    Raises:
        UserError: `finetune`, `set` or a value is wrong.
    """
    changes = {"run.dir": str(trials_folder(config)), **({} if task is None else {"task": task})}
    if config.checkpoint is not None:
        changes["checkpoint"] = str(config.checkpoint)
    overrides = [f"{key}={json.dumps(value)}" for key, value in {**config.set, **changes, **values}.items()]
    described = load_config(config.finetune, overrides, schema=FinetuneConfig)
    arm_of(described)
    return described


def check(config: SweepConfig, task: str | None) -> tuple[SweepConfig, FinetuneConfig]:
    """Check what can be checked before anything runs.

    Args:
        config: of the sweep.
        task: any of its tasks.

    Returns:
        The configuration with the values of the space as fine-tuning reads them, and what all trials share.

    Raises:
        UserError: a key or value of `space` is wrong or makes settings that cannot be compared, or `search` asks for
            what there is not.
    """
    base = describe(config, task, {})
    _check_paths(base)
    space: Space = {}
    for key, values in config.space.items():
        ends = (values.low, values.high) if isinstance(values, Range) else values
        described = [describe(config, task, {key: value}) for value in ends]
        _check_paths(*described)
        read = [value_of(one, key) for one in described]
        space[key] = values if isinstance(values, Range) else read
        if not f"{key}.".startswith(tuple(f"{part}." for part in SEARCHABLE)):
            raise UserError(
                f"space.{key}: settings that differ in it cannot be compared; search keys of {', '.join(SEARCHABLE)}"
            )
        if any(read.count(value) > 1 for value in read):
            raise UserError(f"space.{key}={ends} names a value twice")
    if config.search.kind == "grid":
        for point in grid(space):
            describe(config, task, point.values)
    _check_folds(config, base)
    _check_asha(config, base)
    return config.model_copy(update={"space": space}), base


def value_of(config: FinetuneConfig, key: str) -> Any:
    """The value of a dotted key, as JSON has it."""
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def folds_of(base: FinetuneConfig, task: str | None = None) -> list[int]:
    """All folds that a sweep trains; of a task that comes with validation rows there is one."""
    if task is not None and "valid" in find_task(task).rows:
        return [0]
    return list(range(base.folds.count)) if base.folds.only is None else sorted(set(base.folds.only))


def trials_folder(config: SweepConfig) -> Path:
    """Where the trials' folders are: `<task>/<setting>/fold<k>`."""
    return config.sweep.dir.absolute() / run_files.TRIALS


def _check_paths(*configs: FinetuneConfig) -> None:
    """Find here what every trial would else find for itself."""
    for config in configs:
        for key in PATHS:
            if (path := value_of(config, key)) is not None and not Path(path).exists():
                raise UserError(f"{key}={path}: no such file or folder; correct it in finetune, set or space")


def _check_folds(config: SweepConfig, base: FinetuneConfig) -> None:
    if missing := sorted(set(config.search.folds or []) - set(folds_of(base))):
        raise UserError(
            f"search.folds={config.search.folds}: there is no fold {missing[0]}; the folds are {folds_of(base)}"
        )


def _check_asha(config: SweepConfig, base: FinetuneConfig) -> None:
    if config.search.asha is None:
        return
    arm = arm_of(base)
    if not arm.trains_epochs:
        raise UserError(
            f"search.asha stops folds between epochs, but {arm.option}={arm.name} has none; set search.asha=null"
        )
    if "training.epochs" in config.space:
        raise UserError("search.asha compares settings epoch by epoch; take training.epochs out of space, or asha away")
    if base.training.epochs <= config.search.asha.grace:
        raise UserError(
            f"search.asha can stop nothing: training.epochs={base.training.epochs} ends before search.asha.grace="
            f"{config.search.asha.grace}; set search.asha.grace lower, or search.asha=null"
        )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
