"""Folder of a sweep, which holds its complete state. Each launch reads the results of previous launches from it.

sweep.yaml                                      sweep configuration
finetune.yaml                                   fine-tuning configuration that all trials share
trials/<task>/<setting>/finetune.yaml           configuration of a setting
trials/<task>/<setting>/fold<k>/                run.dir of a trial
    log.txt                                     console output of the trial
    stopped.json                                present if ASHA stopped the trial early
    fold<k>/metrics.jsonl, fold<k>/result.json  written by fine-tuning
    summary.json                                written last by fine-tuning
"""

import math
import shutil
from pathlib import Path

from ldarnet.config import FinetuneConfig, differences, load_config
from ldarnet.config.sweep import SweepConfig
from ldarnet.errors import UserError
from ldarnet.finetuning.results import read_outcome
from ldarnet.io import run_files
from ldarnet.io.files import space_errors, write_json_atomic
from ldarnet.io.lock import FolderInUseError, Lock
from ldarnet.runtime.run_dir import check_same_configuration, lock_run_dir
from ldarnet.sweeps.plan import FoldStatus, SweepPlan, TaskPlan
from ldarnet.sweeps.settings import Setting, get_value, trials_folder
from ldarnet.sweeps.trial import DamagedFileError, best_by_epoch, undefined


class Folders:
    """Folders and files of a sweep.

    Args:
        config: sweep configuration.
        metric: validation metric by which settings are compared.
    """

    def __init__(self, config: SweepConfig, metric: str) -> None:
        self.root, self.trials, self._metric = config.sweep.dir.absolute(), trials_folder(config), metric
        self._keep_all = config.sweep.keep_weights == "all"
        self._asha = config.search.asha is not None
        self._origins: dict[tuple[str, ...], tuple[Path, str | None]] = {}

    def open(self, config: SweepConfig, base: FinetuneConfig) -> Lock:
        """Lock the folder until the returned lock is closed, and save the configuration.

        Raises:
            UserError: another sweep uses the folder, or the folder contains a sweep with a different configuration.
        """
        try:
            held = lock_run_dir(self.root)
        except FolderInUseError:
            raise UserError(
                f"{self.root}: in use by another sweep; wait until it ends, or set another sweep.dir"
            ) from None
        if changed := self._changed(config, base):
            if next(self.trials.rglob(run_files.METRICS), None) is not None:
                check_same_configuration(changed, self.root, "sweep.dir")
            shutil.rmtree(self.trials, ignore_errors=True)  # no trial has started training yet
        config.save(self.root / run_files.SWEEP_CONFIG)
        base.save(self.root / run_files.FINETUNE_CONFIG)
        return held

    def of_setting(self, task: str, name: str) -> Path:
        """Folder of a setting."""
        return self.trials / task / name

    def of_fold(self, task: str, name: str, fold: int) -> Path:
        """Folder of a trial, its `run.dir`."""
        return self.of_setting(task, name) / run_files.fold_name(fold)

    def result(self, task: str, name: str, fold: int) -> Path:
        """Path of the result.json of a trial. A trial is finished if both this file and its summary.json exist."""
        return self.of_fold(task, name, fold) / run_files.fold_name(fold) / run_files.RESULT

    def prepare(self, task: str, name: str, fold: int, config: FinetuneConfig) -> None:
        """Create the folder of a trial before it starts or resumes, and save the configuration of its setting."""
        folder = self.of_fold(task, name, fold)
        with space_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / run_files.TRIAL_STOP).unlink(missing_ok=True)
        config.save(self.of_setting(task, name) / run_files.FINETUNE_CONFIG)

    def mark_stopped(self, task: str, name: str, fold: int, epoch: int) -> None:
        """Record that ASHA stopped a trial, so that later launches do not resume it."""
        write_json_atomic(self.of_fold(task, name, fold) / run_files.TRIAL_STOP, {"epoch": epoch})

    def settings(self, task: str, keys: list[str]) -> list[Setting]:
        """Settings that previous launches tried, sorted by name."""
        configs = sorted((self.trials / task).glob(f"*/{run_files.FINETUNE_CONFIG}"))
        read = [load_config(path, schema=FinetuneConfig) for path in configs]
        values = [{key: get_value(config, key) for key in keys} for config in read]
        # Take the name from the folder: it may contain an equal value in another notation (4 and 4.0).
        return [Setting(path.parent.name, found) for path, found in zip(configs, values, strict=True)]

    def fold(self, task: str, name: str, fold: int, *, is_search_fold: bool) -> FoldStatus:
        """Status of a trial after previous launches.

        Args:
            task: name of the task.
            name: name of the setting.
            fold: index of the fold, from 0.
            is_search_fold: whether settings are compared on this fold. On other folds, the status is never `stopped`.

        Raises:
            UserError: the result is damaged; or another result of the task comes from different data; or another result
                comes from a checkpoint with the same path but different weights.
        """
        if self._asha and is_search_fold and (self.of_fold(task, name, fold) / run_files.TRIAL_STOP).is_file():
            return FoldStatus("stopped", epochs=self.epochs(task, name, fold))
        path = self.result(task, name, fold)
        summary = self.of_fold(task, name, fold) / run_files.SUMMARY
        if not summary.is_file() or (result := read_outcome(path.parent)) is None:
            return FoldStatus()
        self._check_same_origin((task,), path, result["data_fingerprint"], "data")
        if (checkpoint := result.get("checkpoint")) is not None:
            weights = result.get("checkpoint_sha256")
            self._check_same_origin(("checkpoint", checkpoint), path, weights, f"weights of {checkpoint}")
        if (score := result["valid"].get(self._metric)) is None:
            return FoldStatus("failed", reason=undefined(self._metric), permanent=True)
        return FoldStatus("finished", score, self.epochs(task, name, fold))

    def _check_same_origin(self, group: tuple[str, ...], path: Path, origin: str | None, what: str) -> None:
        first, known = self._origins.setdefault(group, (path, origin))
        if origin != known:
            raise UserError(
                f"{path}: trained with different {what} than {first}; delete whichever of the two files is outdated"
            )

    def running(self, plan: SweepPlan) -> list[Path]:
        """Folders of the running trials."""
        return [
            self.of_fold(task.task, setting.name, fold)
            for task in plan.tasks.values()
            for setting, fold, status in task.all_folds()
            if status.state == "running"
        ]

    def epochs(self, task: str, name: str, fold: int) -> dict[int, float]:
        """Read, for each epoch of a trial, the best validation metric up to this epoch.

        Raises:
            UserError: metrics.jsonl is damaged.
        """
        try:
            return best_by_epoch(self.result(task, name, fold).with_name(run_files.METRICS), self._metric)
        except DamagedFileError as error:
            raise UserError(str(error)) from None

    def delete_unneeded(self, task: TaskPlan) -> None:
        """Delete the weights of a task that are no longer needed, unless `sweep.keep_weights=all`.

        Does nothing before the task is settled (see `TaskPlan.settled`). Keeps the checkpoints of the chosen setting,
        and the exported classifier of its best fold.
        """
        if self._keep_all or not task.settled:
            return
        best = self.best_fold(task)
        for setting, fold, _ in task.all_folds():
            folder = self.of_fold(task.task, setting.name, fold)
            if setting != task.chosen:
                for weights in (run_files.BEST, run_files.LAST):
                    shutil.rmtree(folder / run_files.fold_name(fold) / weights, ignore_errors=True)
            if (setting, fold) != (task.chosen, best):
                shutil.rmtree(folder / run_files.EXPORT, ignore_errors=True)

    def classifier(self, task: TaskPlan) -> str | None:
        """Name of the fold folder (`fold<k>`) with the classifier of a task; None if there is no classifier."""
        if not task.done or task.chosen is None:
            return None
        best = self.best_fold(task)
        export = self.of_fold(task.task, task.chosen.name, best) / run_files.EXPORT
        return run_files.fold_name(best) if export.is_dir() else None

    def best_fold(self, task: TaskPlan) -> int:
        """Fold with the best validation metric, among the folds of the chosen setting."""
        assert task.chosen is not None
        scores = {fold: task.fold(task.chosen, fold).score for fold in task.folds}
        return max(task.folds, key=lambda fold: -math.inf if (score := scores[fold]) is None else score)

    def _changed(self, config: SweepConfig, base: FinetuneConfig) -> list[str]:
        """Describe the differences from the saved configuration that affect the results of trials."""
        if not (self.root / run_files.FINETUNE_CONFIG).is_file():
            return []
        before = load_config(self.root / run_files.SWEEP_CONFIG, schema=SweepConfig).space.keys()
        found = differences(load_config(self.root / run_files.FINETUNE_CONFIG, schema=FinetuneConfig), base)
        searched = ("task", *config.space, *before)
        found = [difference for difference in found if not difference.startswith(tuple(f"{key}:" for key in searched))]
        if before != config.space.keys():
            found.append(f"keys of space: {', '.join(before) or 'none'} -> {', '.join(config.space) or 'none'}")
        return found
