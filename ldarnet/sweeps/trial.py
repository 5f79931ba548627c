"""One fold of one task with one setting, as Ray Tune runs it: `ldarnet finetune` in processes of its own.

This module is sent to the workers as it is (`ray.cloudpickle.register_pickle_by_value`) and uses nothing of ours but
strings, which travel with it: importing `ldarnet` would cost every worker seconds and half a gigabyte.
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

from ldarnet.io.run_files import FOLD_PREFIX, METRICS, RESULT, SUMMARY, TRIAL_LOG

POLL_SECONDS = 0.5
MISTAKE = 1
LOST = -9
MOST_READ = 20_000


class TrialJob(TypedDict):
    """What a worker must know of a trial.

    Attributes:
        task: name of the task.
        setting: name of the setting.
        fold: number of the fold.
        final: whether it is only trained because its setting was chosen, and so has no rivals.
        folder: its run.dir.
        metric: of validation, which is reported.
        program: the fine-tuning program, a module name or a .py file.
        config: path of its configuration.
        changes: to the configuration, by dotted key.
        launcher: python or deepspeed.
        ranks: processes.
        gpus: GPUs that Ray gives it.
        keeper: path of supervisor.py.
        cwd: folder that paths in the configuration are relative to.
        variables: of the environment, to set.
    """

    task: str
    setting: str
    fold: int
    final: bool
    folder: str
    metric: str
    program: str
    config: str
    changes: dict[str, Any]
    launcher: str
    ranks: int
    gpus: float
    keeper: str
    cwd: str
    variables: dict[str, str]


def best_by_epoch(path: Path, metric: str) -> dict[int, float]:
    """The best validation metric up to each epoch of a metrics.jsonl, which need not be there yet."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    best: dict[int, float] = {}
    for line in text.splitlines(keepends=True):
        record = json.loads(line) if line.endswith("\n") else {}
        if record.get("split") == "valid" and record["epoch"] > 0 and record.get(metric) is not None:
            best[record["epoch"]] = max([record[metric], *best.values()])
    return best


def undefined(metric: str) -> str:
    """Why a finished fold cannot be compared."""
    return f"{metric} is not defined on the validation rows; use another metric"


class FoldTrial(tune.Trainable):
    """Starts the program, and reports each epoch's best validation metric so far, then the fold's.

    A result has `epoch` and `score`; the last one `done` and `outcome`: `finished` with the score of the fold, or
    `mistake` with a `reason`, and whether training `began` before it was found. A failure that may pass raises.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Start the program, unless the fold is finished."""
        self._job: TrialJob = config  # type: ignore[assignment]
        self._folder = Path(self._job["folder"])
        self._metrics = self._folder / f"{FOLD_PREFIX}{self._job['fold']}" / METRICS
        self._epoch = 0
        self._said = b""
        self._log_begin = 0
        self._keeper = None if self._result() else self._start()

    def step(self) -> dict[str, Any]:
        """Wait for the next epoch, or for the end."""
        while True:
            status = 0 if self._keeper is None else self._status(self._keeper)
            # Read anew each time, as a continued fold may write some again.
            for epoch, score in best_by_epoch(self._metrics, self._job["metric"]).items():
                if epoch > self._epoch:
                    self._epoch = epoch
                    return {"epoch": epoch, "score": score}
            if status is not None:
                return self._end(status)

    def cleanup(self) -> None:
        """End the program, if it still runs, and wait for its end."""
        if self._keeper is not None and self._keeper.stdin and self._keeper.stdout:
            self._keeper.stdin.close()
            self._keeper.stdout.read()
            self._keeper.stdout.close()
            self._keeper = None

    def _start(self) -> subprocess.Popen[bytes]:
        job = self._job
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / TRIAL_LOG
        self._log_begin = log.stat().st_size if log.exists() else 0
        keeper = [sys.executable, "-I", job["keeper"], str(log)]
        environment = {**os.environ, **job["variables"]}
        command = [*keeper, *command_of(job, environment)]
        pipe = subprocess.PIPE
        started = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=job["cwd"], env=environment)
        started.wait()  # the process that goes on is its child
        return started

    def _status(self, keeper: subprocess.Popen[bytes]) -> int | None:
        """The exit status of the program; None after a short while in which it did not end."""
        assert keeper.stdout is not None
        while select.select([keeper.stdout], [], [], POLL_SECONDS)[0]:
            read = os.read(keeper.stdout.fileno(), 64)
            self._said += read
            if not read:
                return int(self._said or LOST)
        return None

    def _end(self, status: int) -> dict[str, Any]:
        result = self._result()
        if result is not None:
            score = result["valid"][self._job["metric"]]
            if score is None:
                return self._mistake(undefined(self._job["metric"]))
            return {"epoch": self._epoch, "score": score, "done": True, "outcome": "finished"}
        lines = self._printed()
        errors = [line for line in lines if line.startswith("error: ")]
        if status == MISTAKE and errors:
            return self._mistake(errors[-1].removeprefix("error: "))
        # A launcher can leave status 1 as well: only a mistake says what it is.
        how = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
        raise RuntimeError(": ".join([how, *(errors or lines)[-1:]]))

    def _mistake(self, reason: str) -> dict[str, Any]:
        return {"done": True, "outcome": "mistake", "reason": reason, "began": self._metrics.exists()}

    def _result(self) -> dict[str, Any] | None:
        """The numbers of the fold once the program has left all that it leaves, the summary last."""
        if not (self._folder / SUMMARY).is_file():
            return None
        try:
            return json.loads(self._metrics.with_name(RESULT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def _printed(self) -> list[str]:
        """The last lines of what the program printed this time."""
        if not (self._folder / TRIAL_LOG).exists():
            return []
        with open(self._folder / TRIAL_LOG, "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - MOST_READ, self._log_begin))
            return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]


def command_of(job: TrialJob, environment: dict[str, str]) -> list[str]:
    """What a trial runs in an environment, which is changed to suit the launcher."""
    changes = [f"{key}={json.dumps(value)}" for key, value in job["changes"].items()]
    arguments = [job["program"], "--config", job["config"], *changes]
    is_file = job["program"].endswith(".py")
    if job["launcher"] == "python":
        return [sys.executable, *([] if is_file else ["-m"]), *arguments]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    # Told a number, the launcher would begin with the first GPU in every trial; and it must see all GPUs to find some.
    where = ["--num_accelerators", str(job["ranks"])]
    if job["gpus"]:
        where = ["--include", f"localhost:{environment.pop('CUDA_VISIBLE_DEVICES')}"]
    if not is_file:
        where.append("--module")
    return [sys.executable, "-m", "deepspeed.launcher.runner", "--master_port", str(port), *where, *arguments]
