"""Fine-tuning configuration of an ablation."""

import json
from pathlib import Path

from ldarnet.config import FinetuneConfig, load_config
from ldarnet.config.ablation import AblationConfig
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.tasks.registry import Task, find_tasks

TRAINING_MODES = {"probe": "probe", "finetune": "full"}
"""Mode in `downstream.modes` -> `training.mode`."""


def downstream_tasks(config: AblationConfig) -> list[Task]:
    """Tasks to fine-tune on; empty for pretraining only.

    Raises:
        UserError: a task does not exist.
    """
    return find_tasks(config.downstream.tasks) if config.downstream.finetune is not None else []


def finetune_config(config: AblationConfig) -> FinetuneConfig | None:
    """Fine-tuning configuration that all runs share; checkpoint, task and mode are set for each run.

    Raises:
        UserError: the configuration is invalid, or sets a key that the ablation sets.
    """
    if config.downstream.finetune is None:
        return None
    values = config.downstream.set
    if own := sorted(values.keys() & {"checkpoint", "task", "training.mode", "run.dir", "run.seed"}):
        raise UserError(f"downstream.set.{own[0]}: set for each run by the ablation; remove it")
    values = values | {
        "run.dir": str(config.ablation.dir.absolute() / run_files.ARMS),
        "task": downstream_tasks(config)[0].key,
        "checkpoint": None,
    }
    overrides = [f"{key}={json.dumps(value, default=str)}" for key, value in values.items()]
    try:
        loaded = load_config(config.downstream.finetune, overrides, schema=FinetuneConfig)
    except UserError as error:
        raise UserError(f"downstream: {error}") from None
    loaded.refuse_credentials()
    for key, path in {"data.folder": loaded.data.folder}.items():
        if path is not None and not Path(path).exists():
            raise UserError(f"downstream: {key}={path}: no such folder; fix the path")
    return loaded
