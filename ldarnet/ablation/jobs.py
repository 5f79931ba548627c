"""Build the job that a Ray worker runs for one run of an ablation."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ldarnet.ablation.arms import AblationArm
from ldarnet.ablation.downstream import TRAINING_MODES
from ldarnet.ablation.folders import AblationFolders
from ldarnet.ablation.plan import AblationRun, ArmPlan
from ldarnet.config.ablation import AblationConfig
from ldarnet.config.resources import TrialResources
from ldarnet.io import run_files
from ldarnet.io.files import space_errors
from ldarnet.jobs import supervisor
from ldarnet.jobs.environment import trial_environment
from ldarnet.jobs.tracking import ParentRun
from ldarnet.jobs.trial import ProgramJob, configured

PROGRAMS: Mapping[str, str] = MappingProxyType(
    {
        "lr": "ldarnet.cli.pretrain",
        "pretrain": "ldarnet.cli.pretrain",
        "finetune": "ldarnet.cli.finetune",
        "statistics": "ldarnet.ablation.statistics",
    }
)
"""Kind of run -> its program, a module name or the absolute path of a .py file."""


class AblationJob(ProgramJob):
    """Everything a worker needs for a run of an ablation.

    Attributes:
        cpus: CPU cores of the trial.
    """

    cpus: float


@dataclass(frozen=True)
class AblationJobs:
    """Prepares the folder of a run and builds its job.

    Attributes:
        config: configuration of the ablation.
        arms: arms after sizing.
        folders: folders of the ablation.
        gpus: GPUs of a pretraining and of a fine-tuning run, by section of `resources`.
        parent: MLflow run of the ablation.
        programs: kind of run -> its program.
    """

    config: AblationConfig
    arms: Mapping[str, AblationArm]
    folders: AblationFolders
    gpus: Mapping[str, float]
    parent: ParentRun
    programs: Mapping[str, str]

    def __call__(self, run: AblationRun, plan: ArmPlan) -> AblationJob:
        """Build the job of a run.

        Raises:
            UserError: the folder cannot be written.
        """
        folder, marker = self.folders.of(run), self.folders.marker(run)
        with space_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if run.kind == "pretrain":  # the statistics of the arm will be outdated
                (self.folders.arm(run.arm) / run_files.STATISTICS).unlink(missing_ok=True)
        section = "pretrain" if run.kind in ("lr", "pretrain") else "finetune"
        resources: TrialResources = getattr(self.config.resources, section)
        statistics = run.kind == "statistics"
        uri = None if self.parent.run_id is None else self.parent.uri
        variables, defaults = trial_environment(resources, self.gpus[section], uri)
        return AblationJob(
            folder=str(folder),
            log=f"{run.kind}.txt" if statistics else run_files.TRIAL_LOG,
            markers=[str(marker)],
            program=self.programs[run.kind],
            arguments=self._arguments(run, plan, folder),
            launcher="python" if statistics else resources.launcher,
            ranks=1 if statistics else resources.ranks,
            gpus=self.gpus[section],
            cpus=resources.cpus,
            supervisor=str(Path(supervisor.__file__).absolute()),
            cwd=str(Path.cwd()),
            variables=variables,
            defaults=defaults,
        )

    def _arguments(self, run: AblationRun, plan: ArmPlan, folder: Path) -> list[str]:
        overrides: dict[str, Any] = {"run.dir": str(folder), **self._tracking(run)}
        root = self.folders.root
        if run.kind == "statistics":
            return [str(root), run.arm]
        if run.kind == "finetune":
            pretrained = self.folders.of(AblationRun("pretrain", run.arm, seed=run.seed))
            overrides |= {
                "task": run.task,
                "training.mode": TRAINING_MODES[f"{run.mode}"],
                "checkpoint": str(pretrained / run_files.EXPORT),
                "run.seed": run.seed,
            }
            return configured(root / run_files.FINETUNE_CONFIG, overrides)
        if run.kind == "lr":
            lr, search = run.lr, self.config.lr
            overrides |= {"run.seed": search.seed}
            overrides |= {"training.steps": search.steps} if search.steps is not None else {}
        else:
            lr = plan.lr
            overrides |= {"run.seed": run.seed}
        overrides |= {"optimizer.lr": lr} if lr is not None else {}
        return configured(self.folders.arm(run.arm) / run_files.PRETRAIN_CONFIG, overrides)

    def _tracking(self, run: AblationRun) -> dict[str, Any]:
        if self.parent.run_id is None:
            return {"tracking.mlflow": False}
        return {
            "tracking.mlflow": True,
            "tracking.name": str(run),
            "tracking.parent": self.parent.run_id,
            "tracking.experiment": self.config.tracking.experiment,
        }
