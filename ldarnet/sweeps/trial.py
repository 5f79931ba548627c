"""Ray Tune trial that trains one fold of a task with one setting. It runs `ldarnet finetune` in separate processes.

Ray pickles this module by value (`ray.cloudpickle.register_pickle_by_value`), so that workers do not import
`ldarnet.sweeps`, which takes several seconds and half a gigabyte of memory. For the same reason, this module imports
only `ldarnet.io.run_files` and `ldarnet.jobs.trial` from this project.
"""

import json
from pathlib import Path
from typing import Any

from ldarnet.io.run_files import METRICS, RESULT, SUMMARY, fold_name
from ldarnet.jobs.trial import ProgramJob, ProgramTrial


class TrialJob(ProgramJob):
    """Everything a worker needs to train a fold; `folder` is the run.dir of the trial.

    Attributes:
        task: name of the task.
        setting: name of the setting.
        fold: index of the fold, from 0.
        final: True if the fold is not a search fold, so that only the chosen setting is trained on it.
        metric: validation metric to report.
    """

    task: str
    setting: str
    fold: int
    final: bool
    metric: str


class DamagedFileError(ValueError):
    """A metrics.jsonl or result.json is malformed."""

    def __init__(self, where: str) -> None:
        super().__init__(f"{where}: damaged; delete the folder of the fold to train it again")


def best_by_epoch(path: Path, metric: str) -> dict[int, float]:
    """Read, for each epoch in a metrics.jsonl, the best validation metric up to this epoch.

    Returns:
        Epoch -> best validation metric up to this epoch; empty if the file does not exist yet.

    Raises:
        DamagedFileError: a line is malformed; an incomplete last line is ignored.
    """
    best: dict[int, float] = {}
    try:
        with open(path, "rb") as lines:
            for index, line in enumerate(lines, start=1):
                if line.endswith(b"\n") and (found := _score(line, metric, f"{path}: line {index}")):
                    epoch, score = found
                    best[epoch] = max([score, *best.values()])
    except FileNotFoundError:
        return {}
    return best


def _score(line: bytes, metric: str, where: str) -> tuple[int, float] | None:
    """Epoch and metric of a validation line; None for a training line, epoch 0 or an undefined metric."""
    record = _parse(line, where)
    if record.get("split") != "valid":
        return None
    epoch, score = record.get("epoch"), record.get(metric)
    if not (type(epoch) is int and epoch >= 0 and (score is None or type(score) in (int, float))):
        raise DamagedFileError(where)
    return (epoch, score) if epoch > 0 and score is not None else None


def _parse(content: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        raise DamagedFileError(where) from None
    if not isinstance(record, dict):
        raise DamagedFileError(where)
    return record


def undefined(metric: str) -> str:
    """Failure reason of a finished fold whose validation metric is undefined."""
    return f"{metric} is undefined on the validation rows; set another evaluation.metric"


class FoldTrial(ProgramTrial):
    """Runs the fine-tuning program, and reports the best validation metric so far after each epoch.

    The result of an epoch has `epoch` and `score`. If the outcome of the last result is `finished`, it has the `score`
    of the fold. If it is `user_error`, `started_training` states whether training had started.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Start the program, unless the fold is finished."""
        self._job: TrialJob = config  # type: ignore[assignment]
        self._metrics = Path(self._job["folder"]) / fold_name(self._job["fold"]) / METRICS
        self._epoch = 0
        super().setup(config)

    def step(self) -> dict[str, Any]:
        """Wait for the next epoch or for the program to exit."""
        try:
            return super().step()
        except DamagedFileError as error:
            return self.user_error(str(error))

    def progress(self) -> dict[str, Any] | None:
        """Return the next epoch; None if there is no new one."""
        # Read the whole file each time, because a resumed fold may repeat epochs.
        for epoch, score in best_by_epoch(self._metrics, self._job["metric"]).items():
            if epoch > self._epoch:
                self._epoch = epoch
                return {"epoch": epoch, "score": score}
        return None

    def result(self) -> dict[str, Any] | None:
        """Return the score of the fold; None until the program has written all its files."""
        if not self.is_finished():
            return None
        path = self._metrics.with_name(RESULT)
        try:
            valid = _parse(path.read_bytes(), str(path)).get("valid")
        except FileNotFoundError:
            return None
        score = valid.get(self._job["metric"]) if isinstance(valid, dict) else None
        if score is None:
            return self.user_error(undefined(self._job["metric"]))
        if type(score) not in (int, float):
            raise DamagedFileError(str(path))
        return {"epoch": self._epoch, "score": score, "done": True, "outcome": "finished"}

    def user_error(self, reason: str) -> dict[str, Any]:
        """Last result of a fold that ended with a user error."""
        return super().user_error(reason) | {"started_training": self._metrics.exists()}


def markers(folder: Path, fold: int) -> list[Path]:
    """Files that exist once a fold is finished, in the run.dir of its trial."""
    return [folder / SUMMARY, folder / fold_name(fold) / RESULT]
