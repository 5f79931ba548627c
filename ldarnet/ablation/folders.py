"""Folder of an ablation, which holds its complete state. Each launch reads the results of previous launches from it.

A run is finished if the file that its program writes last exists, see `Folders.markers`. Names: `ldarnet.io.run_files`.
"""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from ldarnet.ablation.arms import AblationArm, bases_of
from ldarnet.ablation.plan import AblationPlan, AblationRun, ArmPlan, RunStatus
from ldarnet.config import Config, FinetuneConfig, differences, load_config
from ldarnet.config.ablation import AblationConfig
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import write_json_atomic
from ldarnet.io.lock import FolderInUseError, Lock
from ldarnet.io.records import RunId, read_record
from ldarnet.io.run_lines import read_metrics_lines
from ldarnet.runtime.run_dir import check_same_configuration, lock_run_dir

VERSION = 1
HINT = "delete it; the next launch writes it again"


class _SavedArm(TypedDict):
    lr: float | None


class _SavedAblation(TypedDict):
    """The part of ablation.json that a later launch reads."""

    arms: dict[str, _SavedArm]


class _SavedMlflow(TypedDict):
    """Content of mlflow.json."""

    run_id: RunId


class AblationFolders:
    """Folders and files of an ablation.

    Args:
        config: configuration of the ablation.
        arms: arms after sizing.
        finetune: fine-tuning configuration that all arms share; None without downstream tasks.
    """

    def __init__(
        self, config: AblationConfig, arms: Mapping[str, AblationArm], finetune: FinetuneConfig | None
    ) -> None:
        self.root, self._config, self._arms, self._finetune = config.ablation.dir.absolute(), config, arms, finetune

    def open(self) -> Lock:
        """Lock the folder until the returned lock is closed, and save the configurations.

        Raises:
            UserError: another ablation uses the folder, or a configuration of a run that has started is different.
        """
        try:
            held = lock_run_dir(self.root)
        except FolderInUseError:
            raise UserError(
                f"{self.root}: in use by another ablation; wait until it ends, or set another ablation.dir"
            ) from None
        try:
            self._save_configurations()
        except BaseException:
            held.close()
            raise
        return held

    def arm(self, name: str) -> Path:
        """Folder of an arm."""
        return self.root / run_files.ARMS / name

    def of(self, run: AblationRun) -> Path:
        """Folder of a run, its `run.dir`; for statistics, the folder of the arm."""
        arm = self.arm(run.arm)
        if run.kind == "lr":
            return arm / run_files.LR_SEARCH / f"{run.lr:g}"
        if run.kind == "statistics":
            return arm
        seed = arm / run_files.seed_name(run.seed or 0)
        return seed / run_files.PRETRAINING if run.kind == "pretrain" else seed / f"{run.task}" / f"{run.mode}"

    def marker(self, run: AblationRun) -> Path:
        """File that the program of a run writes last."""
        names = {"finetune": run_files.SUMMARY, "statistics": run_files.STATISTICS}
        return self.of(run) / names.get(run.kind, run_files.SUMMARY_TEXT)

    def plan(self, downstream: list[tuple[str, str]]) -> AblationPlan:
        """Build the plan from the configuration and the results of previous launches.

        Raises:
            UserError: a previous result is damaged.
        """
        path = self.root / run_files.ABLATION_RECORD
        saved = read_record(path, _SavedAblation, hint=HINT)["arms"] if path.is_file() else {}
        lrs, seeds = self._config.lr.values, self._config.ablation.seeds
        plans = [
            ArmPlan(name, lrs, seeds, downstream, saved[name]["lr"] if len(lrs) > 1 and name in saved else None)
            for name in self._arms
        ]
        for plan in plans:
            for run, status in plan.status.items():
                # Statistics come after all seeds, and are outdated if a seed has been added.
                if self.marker(run).is_file() and (run.kind != "statistics" or plan.pretrained):
                    status.state = "finished"
                    self.read_loss(run, status)
        return AblationPlan(plans)

    def read_loss(self, run: AblationRun, status: RunStatus) -> None:
        """Set the loss of a finished run of the learning rate search, and delete its weights.

        Raises:
            UserError: metrics.jsonl is missing or damaged.
        """
        if run.kind != "lr":
            return
        path = self.of(run) / run_files.METRICS
        loss = None
        for line in read_metrics_lines(path):
            if line["split"] == "valid":
                loss = line.get("mask_loss")
        if loss is None or not math.isfinite(loss):
            status.state, status.reason, status.permanent = "failed", f"{path}: no validation loss", True
            return
        status.loss = loss
        for name in (run_files.CHECKPOINTS, run_files.EXPORT):
            shutil.rmtree(self.of(run) / name, ignore_errors=True)

    def write(self, plan: AblationPlan) -> None:
        """Write ablation.json."""
        first = next(iter(self._arms.values())).config
        tasks = dict.fromkeys(run.task for run in plan.runs() if run.task is not None)
        content = {
            "version": VERSION,
            "reference": self._config.ablation.reference,
            "arms": {name: self._arm_record(arm, plan.arms[name]) for name, arm in self._arms.items()},
            "tasks": list(tasks),
            "modes": self._config.downstream.modes if tasks else [],
            "seeds": self._config.ablation.seeds,
            "bases": bases_of(first),
        }
        write_json_atomic(self.root / run_files.ABLATION_RECORD, content, indent=2)

    def _arm_record(self, arm: AblationArm, plan: ArmPlan) -> dict[str, Any]:
        cost = arm.sized.cost
        lr = plan.lr if plan.lrs else arm.config.optimizer.lr
        return {
            "title": arm.name,
            "config": arm.sized.config.to_dict(),
            "overrides": arm.overrides,
            "bases_per_chunk": list(cost.bases_per_chunk),
            "bases_per_token": cost.bases_per_token,
            "flops_per_base": cost.training_flops,
            "difference": arm.sized.difference,
            "parameters": cost.parameters,
            "lr": lr,
            "lr_scores": {f"{run.lr:g}": status.loss for run, status in plan.of_kind("lr")},
            "seeds": {
                str(run.seed): {
                    "state": status.state,
                    "reason": status.reason or None,
                    "mlflow_run": _mlflow_run(self.of(run)),
                }
                for run, status in plan.of_kind("pretrain")
            },
            "failed": {str(run): one.reason for run, one in plan.status.items() if one.state == "failed"},
        }

    def _save_configurations(self) -> None:
        """Save the configurations; refuse to change one with which runs have started, before any is written."""
        metrics, fold_metrics = f"**/{run_files.METRICS}", f"**/{run_files.FOLD_METRICS}"
        files: list[tuple[Path, Config]] = [(self.root / run_files.ABLATION_CONFIG, self._config)]
        self._check_unchanged(*files[0], started=metrics, delete=self.root)
        for name, arm in self._arms.items():
            folder = self.arm(name)
            files.append((folder / run_files.PRETRAIN_CONFIG, arm.config))
            self._check_unchanged(*files[-1], started=metrics, delete=folder)
        if self._finetune is not None:
            files.append((self.root / run_files.FINETUNE_CONFIG, self._finetune))
            tasks = f"the fine-tuning runs {self.root / run_files.ARMS}/ARM/seedN/TASK; pretraining can stay"
            self._check_unchanged(*files[-1], started=fold_metrics, delete=tasks)
        for path, config in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            config.save(path)

    def _check_unchanged(self, path: Path, new: Config, *, started: str, delete: object) -> None:
        """Refuse to change the configuration at `path` once a file beside or below it matches the glob `started`."""
        if path.is_file() and next(path.parent.glob(started), None) is not None:
            found = differences(load_config(path, schema=type(new)), new)
            changed = [one for one in found if not one.startswith("task:")]  # set for each fine-tuning run
            check_same_configuration(changed, path.parent, "ablation.dir", delete=delete)


def _mlflow_run(folder: Path) -> str | None:
    path = folder / run_files.MLFLOW
    return read_record(path, _SavedMlflow, hint="delete it")["run_id"] if path.is_file() else None
