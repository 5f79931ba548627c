"""Ray Tune trial that trains one fold of a task with one setting. It runs `ldarnet finetune` in separate processes.

Ray pickles this module by value (`ray.cloudpickle.register_pickle_by_value`), so that workers do not import
`ldarnet.sweeps`, which takes several seconds and half a gigabyte of memory. For the same reason, this module imports
only `ldarnet.io.run_files` from this project.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, TypedDict

from ray import tune

from ldarnet.io.run_files import METRICS, RESULT, SUMMARY, TRIAL_LOG, fold_name

POLL_SECONDS = 0.5
USER_ERROR = 1
LOST = -9
MAX_LOG_BYTES = 20_000
"""Bytes at the end of a log that are searched for errors."""


class TrialJob(TypedDict):
    """Everything a worker needs to run a trial.

    Attributes:
        task: name of the task.
        setting: name of the setting.
        fold: index of the fold, from 0.
        final: True if the fold is not a search fold, so that only the chosen setting is trained on it.
        folder: run.dir of the trial.
        metric: validation metric to report.
        program: the fine-tuning program, a module name or a .py file.
        config: path of the fine-tuning configuration.
        overrides: values that replace those of the configuration, by dotted key.
        launcher: python or deepspeed.
        ranks: number of processes.
        gpus: GPUs that Ray assigns to the trial.
        supervisor: path of supervisor.py.
        cwd: folder that paths in the configuration are relative to.
        variables: environment variables that override those of the node.
        defaults: defaults for environment variables that the node does not set.
    """

    task: str
    setting: str
    fold: int
    final: bool
    folder: str
    metric: str
    program: str
    config: str
    overrides: dict[str, Any]
    launcher: str
    ranks: int
    gpus: float
    supervisor: str
    cwd: str
    variables: dict[str, str]
    defaults: dict[str, str]


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


class FoldTrial(tune.Trainable):
    """Runs the fine-tuning program, and reports the best validation metric so far after each epoch.

    The result of an epoch has `epoch` and `score`. The last result has `done` and `outcome`. If the outcome is
    `finished`, the result has the `score` of the fold. If it is `user_error`, the result has the `reason`, and
    `started_training` states whether training had started. Any other failure raises an exception, so that Ray Tune
    retries the trial.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Start the program, unless the fold is finished."""
        self._job: TrialJob = config  # type: ignore[assignment]
        self._folder = Path(self._job["folder"])
        self._metrics = self._folder / fold_name(self._job["fold"]) / METRICS
        self._epoch = 0
        self._status_output = b""
        self._log_start = 0
        self._supervisor = None if self._is_finished() else self._start()

    def step(self) -> dict[str, Any]:
        """Wait for the next epoch or for the program to exit."""
        while True:
            status = 0 if self._supervisor is None else self._status(self._supervisor)
            # Read the whole file each time, because a resumed fold may repeat epochs.
            try:
                for epoch, score in best_by_epoch(self._metrics, self._job["metric"]).items():
                    if epoch > self._epoch:
                        self._epoch = epoch
                        return {"epoch": epoch, "score": score}
                if status is not None:
                    return self._final_result(status)
            except DamagedFileError as error:
                return self._user_error(str(error))

    def cleanup(self) -> None:
        """Terminate the program if it is still running, and wait until it has exited."""
        if self._supervisor is not None and self._supervisor.stdin and self._supervisor.stdout:
            self._supervisor.stdin.close()
            self._supervisor.stdout.read()
            self._supervisor.stdout.close()
            self._supervisor = None

    def _start(self) -> subprocess.Popen[bytes]:
        job = self._job
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / TRIAL_LOG
        self._log_start = log.stat().st_size if log.exists() else 0
        environment = {**job["defaults"], **os.environ, **job["variables"]}
        command = [sys.executable, "-I", job["supervisor"], str(log), *command_of(job, environment)]
        pipe = subprocess.PIPE
        started = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=job["cwd"], env=environment)
        started.wait()  # returns at once: the supervisor forks and continues in its child
        return started

    def _status(self, supervisor: subprocess.Popen[bytes]) -> int | None:
        """Exit status of the program; None if it is still running after a short wait."""
        assert supervisor.stdout is not None
        while select.select([supervisor.stdout], [], [], POLL_SECONDS)[0]:
            read = os.read(supervisor.stdout.fileno(), 64)
            self._status_output += read
            if not read:
                return int(self._status_output or LOST)
        return None

    def _is_finished(self) -> bool:
        return (self._folder / SUMMARY).is_file() and self._metrics.with_name(RESULT).is_file()

    def _final_result(self, status: int) -> dict[str, Any]:
        result = self._result()
        if result is not None:
            valid = result.get("valid")
            score = valid.get(self._job["metric"]) if isinstance(valid, dict) else None
            if score is None:
                return self._user_error(undefined(self._job["metric"]))
            if type(score) not in (int, float):
                raise DamagedFileError(str(self._metrics.with_name(RESULT)))
            return {"epoch": self._epoch, "score": score, "done": True, "outcome": "finished"}
        lines = self._log_tail()
        errors = [line for line in lines if line.startswith("error: ")]
        if status == USER_ERROR and errors:
            return self._user_error(errors[-1].removeprefix("error: "))
        # Status 1 alone is not a user error, since launchers exit with it too; a user error also prints `error:`.
        how = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
        raise RuntimeError(": ".join([how, *(errors or lines)[-1:]]))

    def _user_error(self, reason: str) -> dict[str, Any]:
        started_training = self._metrics.exists()
        return {"done": True, "outcome": "user_error", "reason": reason, "started_training": started_training}

    def _result(self) -> dict[str, Any] | None:
        """Content of result.json; None until the program has written all its files."""
        if not self._is_finished():
            return None
        path = self._metrics.with_name(RESULT)
        try:
            return _parse(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None

    def _log_tail(self) -> list[str]:
        """Last lines of the log, without lines from earlier runs of the program."""
        if not (self._folder / TRIAL_LOG).exists():
            return []
        with open(self._folder / TRIAL_LOG, "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - MAX_LOG_BYTES, self._log_start))
            return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]


def command_of(job: TrialJob, environment: dict[str, str]) -> list[str]:
    """Build the command line of a trial. May remove CUDA_VISIBLE_DEVICES from `environment`."""
    overrides = [f"{key}={json.dumps(value)}" for key, value in job["overrides"].items()]
    arguments = [job["program"], "--config", job["config"], *overrides]
    is_file = job["program"].endswith(".py")
    if job["launcher"] == "python":
        return [sys.executable, *([] if is_file else ["-m"]), *arguments]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    # Given only a number of GPUs, the launcher would start at GPU 0 in every trial, so list the GPUs. To include only
    # some GPUs, it must see all of them, so remove CUDA_VISIBLE_DEVICES.
    devices = ["--num_accelerators", str(job["ranks"])]
    if job["gpus"]:
        devices = ["--include", f"localhost:{environment.pop('CUDA_VISIBLE_DEVICES')}"]
    if not is_file:
        devices.append("--module")
    return [sys.executable, "-m", "deepspeed.launcher.runner", "--master_port", str(port), *devices, *arguments]
