"""Build the job that a Ray worker runs for one trial."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldarnet.config.sweep import SweepConfig
from ldarnet.io import run_files
from ldarnet.redaction import has_credentials, redact
from ldarnet.sweeps import supervisor
from ldarnet.sweeps.folders import Folders
from ldarnet.sweeps.plan import TaskPlan
from ldarnet.sweeps.settings import Setting, trial_config
from ldarnet.sweeps.tracking import ParentRun
from ldarnet.sweeps.trial import TrialJob

SECRETS = ("PASSWORD", "TOKEN")
"""Suffixes of the names of environment variables that hold secrets."""


class JobFactory:
    """Prepares the folder of a trial and builds its job.

    Args:
        config: sweep configuration.
        metric: validation metric.
        tasks: task name -> value to set for `task` in the fine-tuning configuration; None to keep the configured value.
        folders: folders of the sweep.
        program: the fine-tuning program, a module name or the absolute path of a .py file.
        gpus: GPUs per trial.
        parent: MLflow run of the sweep.
    """

    def __init__(
        self,
        config: SweepConfig,
        metric: str,
        tasks: Mapping[str, str | None],
        folders: Folders,
        program: str,
        gpus: float,
        parent: ParentRun,
    ) -> None:
        self._config, self._metric, self._tasks, self._folders = config, metric, tasks, folders
        self._program, self._gpus, self._parent = program, gpus, parent

    def __call__(self, task: TaskPlan, setting: Setting, fold: int) -> TrialJob:
        """Build the job of a trial.

        Raises:
            UserError: the values of the setting cannot be combined, or its folder cannot be written.
        """
        config = trial_config(self._config, self._tasks[task.task], setting.values)
        self._folders.prepare(task.task, setting.name, fold, config)
        folder = self._folders.of_fold(task.task, setting.name, fold)
        variables, defaults = self._environment()
        return TrialJob(
            task=task.task,
            setting=setting.name,
            fold=fold,
            final=fold not in task.search_folds,
            folder=str(folder),
            metric=self._metric,
            program=self._program,
            config=str(folder.parent / run_files.FINETUNE_CONFIG),
            overrides=self._overrides(folder, fold, f"{task.task} {setting.name}"),
            launcher=self._config.resources.launcher,
            ranks=self._config.resources.ranks,
            gpus=self._gpus,
            supervisor=str(Path(supervisor.__file__).absolute()),
            cwd=str(Path.cwd()),
            variables=variables,
            defaults=defaults,
        )

    def _overrides(self, folder: Path, fold: int, name: str) -> dict[str, Any]:
        overrides = {"run.dir": str(folder), "folds.only": [fold], "tracking.mlflow": self._parent.run_id is not None}
        if self._parent.run_id is None:
            return overrides
        return overrides | {
            "tracking.name": name,
            "tracking.parent": self._parent.run_id,
            "tracking.experiment": self._config.tracking.experiment,
        }

    def _environment(self) -> tuple[dict[str, str], dict[str, str]]:
        """Environment variables of a trial.

        They configure MLflow and the number of CPU threads. For a CPU-only trial, they also hide the GPUs.

        Returns:
            Two dicts: variables that override those of the node, and defaults for variables that the node does not set.
        """
        # Remote nodes do not inherit MLflow settings. Ray writes the variables to files, so secrets are excluded.
        variables = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("MLFLOW_") and not name.endswith(SECRETS) and not has_credentials(value)
        }
        defaults: dict[str, str] = {}
        if self._parent.run_id is not None:
            target = defaults if has_credentials(self._parent.uri) else variables
            target["MLFLOW_TRACKING_URI"] = redact(self._parent.uri)
        resources = self._config.resources
        variables["OMP_NUM_THREADS"] = str(max(int(resources.cpus / resources.ranks), 1))
        if not self._gpus:
            variables |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
        return variables, defaults
