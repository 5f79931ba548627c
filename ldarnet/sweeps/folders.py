"""The folder of a sweep, which is all of its state: a start reads from it what earlier starts have done.

sweep.yaml, finetune.yaml                       what is searched; what all trials share
trials/<task>/<setting>/finetune.yaml           the configuration of a setting
trials/<task>/<setting>/fold<k>/                run.dir of a trial
    log.txt                                     what it printed
    stopped.json                                there if it was ended early because it fell behind
    fold<k>/metrics.jsonl, fold<k>/result.json  written by fine-tuning
    summary.json                                written by it last of all
"""

import math
import shutil
import time
from pathlib import Path

from ldarnet.config import FinetuneConfig, differences, load_config
from ldarnet.config.sweep import SweepConfig
from ldarnet.errors import UserError
from ldarnet.finetuning.results import read_result
from ldarnet.io import run_files
from ldarnet.io.files import space_errors, write_json_atomic
from ldarnet.io.lock import FolderInUseError, Lock
from ldarnet.runtime.lock import lock
from ldarnet.sweeps.plan import FoldStatus, SweepPlan, TaskPlan
from ldarnet.sweeps.settings import Setting, trials_folder, value_of
from ldarnet.sweeps.supervisor import GRACE_SECONDS
from ldarnet.sweeps.trial import best_by_epoch, undefined

POLL_SECONDS = 0.2
SAVING_SECONDS = 2 * GRACE_SECONDS


class Folders:
    """Where everything of a sweep lies.

    Args:
        config: of the sweep.
        metric: of validation that settings are compared by.
    """

    def __init__(self, config: SweepConfig, metric: str) -> None:
        self.root, self.trials, self._metric = config.sweep.dir.absolute(), trials_folder(config), metric
        self._keeps_all = config.sweep.keep_weights == "all"
        self._asha = config.search.asha is not None
        self._origins: dict[tuple[str, ...], tuple[Path, str | None]] = {}

    def open(self, config: SweepConfig, base: FinetuneConfig) -> Lock:
        """Hold the folder until the returned file is closed, and write down what is searched.

        Raises:
            UserError: another sweep uses it, or it holds a sweep of other things, whose differences are named.
        """
        try:
            held = lock(self.root)
        except FolderInUseError:
            raise UserError(f"another sweep uses {self.root}; wait for its end, or choose another sweep.dir") from None
        if changed := self._changed(config, base):
            if next(self.trials.rglob(run_files.METRICS), None) is not None:
                raise UserError(
                    f"{self.root} holds another sweep ({'; '.join(changed)}); give this one another sweep.dir, or "
                    "delete that one"
                )
            shutil.rmtree(self.trials, ignore_errors=True)  # nothing was learnt yet
        config.save(self.root / run_files.SWEEP_CONFIG)
        base.save(self.root / run_files.FINETUNE_CONFIG)
        return held

    def of_setting(self, task: str, name: str) -> Path:
        """The folder of a setting."""
        return self.trials / task / name

    def of_fold(self, task: str, name: str, fold: int) -> Path:
        """The run.dir of a trial."""
        return self.of_setting(task, name) / run_files.fold_name(fold)

    def result(self, task: str, name: str, fold: int) -> Path:
        """The numbers of a trial; it is finished when there is a summary, too."""
        return self.of_fold(task, name, fold) / run_files.fold_name(fold) / run_files.RESULT

    def prepare(self, task: str, name: str, fold: int, config: FinetuneConfig) -> None:
        """Make ready to begin a trial or to continue it."""
        folder = self.of_fold(task, name, fold)
        with space_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / run_files.TRIAL_STOP).unlink(missing_ok=True)
        config.save(self.of_setting(task, name) / run_files.FINETUNE_CONFIG)

    def stop(self, task: str, name: str, fold: int, epoch: int) -> None:
        """Mark a trial as ended early, for good."""
        write_json_atomic(self.of_fold(task, name, fold) / run_files.TRIAL_STOP, {"epoch": epoch})

    def settings(self, task: str, keys: list[str]) -> list[Setting]:
        """The settings that earlier starts have tried, by name."""
        configs = sorted((self.trials / task).glob(f"*/{run_files.FINETUNE_CONFIG}"))
        read = [load_config(path, schema=FinetuneConfig) for path in configs]
        values = [{key: value_of(config, key) for key in keys} for config in read]
        # The name is the folder's: it may have been made of an equal value that is written in another way (4 and 4.0).
        return [Setting(path.parent.name, found) for path, found in zip(configs, values, strict=True)]

    def fold(self, task: str, name: str, fold: int, *, rivals: bool) -> FoldStatus:
        """How far earlier starts have come with a trial.

        Args:
            task: its name.
            name: of the setting.
            fold: its number.
            rivals: whether settings are compared on it; if not, one that was stopped early is to go on.

        Raises:
            UserError: its result is damaged, of other data than those of the task read before, or of other weights
                than those of another with the same checkpoint.
        """
        if self._asha and rivals and (self.of_fold(task, name, fold) / run_files.TRIAL_STOP).is_file():
            return FoldStatus("stopped", epochs=self.epochs(task, name, fold))
        path = self.result(task, name, fold)
        summary = self.of_fold(task, name, fold) / run_files.SUMMARY
        if not summary.is_file() or (result := read_result(path.parent)) is None:
            return FoldStatus()
        self._demand_equal((task,), path, result["data_fingerprint"], "on other data")
        if (checkpoint := result.get("checkpoint")) is not None:
            key, weights = ("checkpoint", checkpoint), result["checkpoint_sha256"]
            self._demand_equal(key, path, weights, f"from other weights of {checkpoint}")
        if (score := result["valid"][self._metric]) is None:
            return FoldStatus("failed", reason=undefined(self._metric), lasting=True)
        return FoldStatus("finished", score, self.epochs(task, name, fold))

    def _demand_equal(self, group: tuple[str, ...], path: Path, origin: str | None, what: str) -> None:
        first, known = self._origins.setdefault(group, (path, origin))
        if origin != known:
            raise UserError(f"{path} was trained {what} than {first}; delete the one that is wrong")

    def wait_for_saving(self, plan: SweepPlan) -> None:
        """Wait until the trials that were under way have saved and ended, or have had their time for it."""
        until = time.monotonic() + SAVING_SECONDS
        for task in plan.tasks.values():
            for one, fold, cell in task.cells():
                folder = self.of_fold(task.task, one.name, fold)
                while cell.state == "running" and time.monotonic() < until and _is_held(folder):
                    time.sleep(POLL_SECONDS)

    def epochs(self, task: str, name: str, fold: int) -> dict[int, float]:
        """The best validation metric up to each epoch."""
        return best_by_epoch(self.result(task, name, fold).with_name(run_files.METRICS), self._metric)

    def tidy(self, task: TaskPlan) -> None:
        """Delete what nobody needs when a task is settled, unless all is to be kept: it can take terabytes.

        These are the weights of settings that were not chosen, and all exports but the best fold's.
        """
        if self._keeps_all or not task.settled:
            return
        best = self.best_fold(task)
        for one, fold, _ in task.cells():
            folder = self.of_fold(task.task, one.name, fold)
            if one != task.chosen:
                for weights in (run_files.BEST, run_files.LAST):
                    shutil.rmtree(folder / run_files.fold_name(fold) / weights, ignore_errors=True)
            if (one, fold) != (task.chosen, best):
                shutil.rmtree(folder / run_files.EXPORT, ignore_errors=True)

    def classifier(self, task: TaskPlan) -> str | None:
        """The chosen setting's fold whose exported classifier is the task's; None where there is none."""
        if not task.done or task.chosen is None:
            return None
        best = self.best_fold(task)
        export = self.of_fold(task.task, task.chosen.name, best) / run_files.EXPORT
        return run_files.fold_name(best) if export.is_dir() else None

    def best_fold(self, task: TaskPlan) -> int:
        """The fold of a task's chosen setting with the best validation metric."""
        assert task.chosen is not None
        scores = {fold: task.fold(task.chosen, fold).score for fold in task.folds}
        return max(task.folds, key=lambda fold: -math.inf if (score := scores[fold]) is None else score)

    def _changed(self, config: SweepConfig, base: FinetuneConfig) -> list[str]:
        """What enters the results of trials and is not as it was when the sweep began."""
        if not (self.root / run_files.FINETUNE_CONFIG).is_file():
            return []
        before = load_config(self.root / run_files.SWEEP_CONFIG, schema=SweepConfig).space.keys()
        found = differences(load_config(self.root / run_files.FINETUNE_CONFIG, schema=FinetuneConfig), base)
        own = ("task", *config.space, *before)
        found = [difference for difference in found if not difference.startswith(tuple(f"{key}:" for key in own))]
        if before != config.space.keys():
            found.append(f"keys of space: {', '.join(before) or 'none'} -> {', '.join(config.space) or 'none'}")
        return found


def _is_held(folder: Path) -> bool:
    try:
        lock(folder).close()
    except FolderInUseError:
        return True
    return False
