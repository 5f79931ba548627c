"""Ray Tune trial that runs a program in separate processes until it has finished, failed or been stopped.

Workers import this module, so it imports only Ray, the standard library and modules without other dependencies.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from ray import tune

from ldarnet.runtime.ports import RANK_VARIABLES, free_port

POLL_SECONDS = 0.5
USER_ERROR = 1
LOST = -9
MAX_LOG_BYTES = 20_000
"""Bytes at the end of a log that are searched for errors."""


class ProgramJob(TypedDict):
    """Everything a worker needs to run a program.

    Attributes:
        folder: folder of the log; created if missing.
        log: name of the log file.
        markers: paths of files that all exist once the program has finished its work.
        program: a module name or a .py file.
        arguments: command-line arguments.
        launcher: python or deepspeed.
        ranks: number of processes.
        gpus: GPUs that Ray assigns to the trial.
        supervisor: path of supervisor.py.
        cwd: working directory, which paths in arguments and configurations are relative to.
        variables: environment variables that override those of the node.
        defaults: defaults for environment variables that the node does not set.
    """

    folder: str
    log: str
    markers: list[str]
    program: str
    arguments: list[str]
    launcher: str
    ranks: int
    gpus: float
    supervisor: str
    cwd: str
    variables: dict[str, str]
    defaults: dict[str, str]


class ProgramTrial(tune.Trainable):
    """Runs a program whose work may already be finished.

    The last result has `done` and `outcome`. If the outcome is `user_error`, the result has the `reason`. Any other
    failure raises an exception, so that Ray Tune retries the trial. Subclasses may report progress.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Start the program, unless its work is finished."""
        self._program: ProgramJob = config  # type: ignore[assignment]
        self._log = Path(self._program["folder"], self._program["log"])
        self._status_output = b""
        self._log_start = 0
        self._supervisor = None if self.is_finished() else self._start()

    def step(self) -> dict[str, Any]:
        """Wait for progress or for the program to exit."""
        while True:
            status = 0 if self._supervisor is None else self._status(self._supervisor)
            if (update := self.progress()) is not None:
                return update
            if status is not None:
                return self._final_result(status)

    def cleanup(self) -> None:
        """Terminate the program if it is still running, and wait until it has exited."""
        if self._supervisor is not None and self._supervisor.stdin and self._supervisor.stdout:
            self._supervisor.stdin.close()
            self._supervisor.stdout.read()
            self._supervisor.stdout.close()
            self._supervisor = None

    def is_finished(self) -> bool:
        """Whether all markers exist."""
        return all(Path(marker).is_file() for marker in self._program["markers"])

    def progress(self) -> dict[str, Any] | None:
        """Return a result to report before the program exits; None if there is nothing new."""
        return None

    def result(self) -> dict[str, Any] | None:
        """Return the last result of a finished program; None if the program has not finished its work."""
        return {"done": True, "outcome": "finished"} if self.is_finished() else None

    def user_error(self, reason: str) -> dict[str, Any]:
        """Last result of a program that ended with a user error."""
        return {"done": True, "outcome": "user_error", "reason": reason}

    def _start(self) -> subprocess.Popen[bytes]:
        job = self._program
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        environment = environment_of(job)
        command = [sys.executable, "-I", job["supervisor"], str(self._log), *command_of(job, environment)]
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

    def _final_result(self, status: int) -> dict[str, Any]:
        if (result := self.result()) is not None:
            return result
        lines = self._log_tail()
        errors = [line for line in lines if line.startswith("error: ")]
        if status == USER_ERROR and errors:
            return self.user_error(errors[-1].removeprefix("error: "))
        # Status 1 alone is not a user error, since launchers exit with it too; a user error also prints `error:`.
        how = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
        raise RuntimeError(": ".join([how, *(errors or lines)[-1:]]))

    def _log_tail(self) -> list[str]:
        """Last lines of the log, without lines from earlier runs of the program."""
        if not self._log.exists():
            return []
        with open(self._log, "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - MAX_LOG_BYTES, self._log_start))
            return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]


def configured(config: str | Path, overrides: Mapping[str, Any]) -> list[str]:
    """Command-line arguments of a program with a configuration file; `overrides` are values by dotted key."""
    return ["--config", str(config), *(f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items())]


def environment_of(job: ProgramJob) -> dict[str, str]:
    """Environment of a program. If a launcher started the driver, its ranks are not those of the program."""
    inherited = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    return {**job["defaults"], **inherited, **job["variables"]}


def command_of(job: ProgramJob, environment: dict[str, str]) -> list[str]:
    """Build the command line of a job. May remove CUDA_VISIBLE_DEVICES from `environment`."""
    arguments = [job["program"], *job["arguments"]]
    is_file = job["program"].endswith(".py")
    if job["launcher"] == "python":
        return [sys.executable, *([] if is_file else ["-m"]), *arguments]
    # Given only a number of GPUs, the launcher would start at GPU 0 in every trial, so list the GPUs. To include only
    # some GPUs, it must see all of them, so remove CUDA_VISIBLE_DEVICES.
    devices = ["--num_accelerators", str(job["ranks"])]
    if job["gpus"]:
        devices = ["--include", f"localhost:{environment.pop('CUDA_VISIBLE_DEVICES')}"]
    if not is_file:
        devices.append("--module")
    return [sys.executable, "-m", "deepspeed.launcher.runner", "--master_port", str(free_port()), *devices, *arguments]
