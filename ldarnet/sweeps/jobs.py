"""Build the job that a Ray worker runs for one trial."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldarnet.config.sweep import SweepConfig
from ldarnet.io import run_files
from ldarnet.jobs import supervisor
from ldarnet.jobs.environment import trial_environment
from ldarnet.jobs.tracking import ParentRun
from ldarnet.jobs.trial import configured
from ldarnet.sweeps.folders import Folders
from ldarnet.sweeps.plan import TaskPlan
from ldarnet.sweeps.settings import Setting, trial_config
from ldarnet.sweeps.trial import TrialJob, markers


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
        resources = self._config.resources
        uri = None if self._parent.run_id is None else self._parent.uri
        variables, defaults = trial_environment(resources, self._gpus, uri)
        overrides = self._overrides(folder, fold, f"{task.task} {setting.name}")
        return TrialJob(
            task=task.task,
            setting=setting.name,
            fold=fold,
            final=fold not in task.search_folds,
            folder=str(folder),
            log=run_files.TRIAL_LOG,
            markers=[str(path) for path in markers(folder, fold)],
            metric=self._metric,
            program=self._program,
            arguments=configured(folder.parent / run_files.FINETUNE_CONFIG, overrides),
            launcher=resources.launcher,
            ranks=resources.ranks,
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
