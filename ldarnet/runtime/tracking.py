"""MLflow tracking from a thread on rank 0: importing MLflow, connecting and logging never delay a step.

If the tracking store is unreachable, a warning is printed once and training continues; metrics.jsonl has all metrics.
"""

import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from ldarnet.config import FinetuneConfig, RunConfig, flatten
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import write_json_atomic
from ldarnet.io.records import RunId, read_record
from ldarnet.redaction import redact

FLUSH_SECONDS = 2.0
CLOSE_SECONDS = 20.0
"""Seconds to wait for MLflow at the end of a run; launchers kill a rank 30 seconds after SIGTERM."""
NOT_TRACKED = ("boundary_histogram",)
"""Keys of metrics.jsonl that are not logged to MLflow; `ldarnet report` plots them."""
NOT_IN_NAMES = re.compile(r"[^\w\-. :/]", re.ASCII)
"""Characters that MLflow rejects in names; names of BED regions and species can contain them."""
NOT_IN_PATHS = ("", ".", "..")
"""Path components that MLflow rejects in names."""
MAX_NAME_LENGTH = 250
"""Maximum length of metric names in MLflow."""
MAX_PENDING = 20_000
"""Maximum number of items kept in memory (about 100 MB) while the store is unreachable; the oldest are dropped."""
MAX_BATCH = 1000
"""Maximum number of metrics per request to MLflow's REST API."""
MAX_PARAMETERS = 100
"""Maximum number of parameters per request to MLflow's REST API."""


class Tracker:
    """Logs to one MLflow run.

    If mlflow.json in the run folder (or in the subfolder `part`, if given) records an MLflow run, resumes that run.

    Args:
        config: run configuration; logged as parameters.
        say: prints a line to the console.
        kernels: operation -> backend, logged as tags ``kernels.<operation>``.
        part: subfolder of the run folder that has a separate MLflow run, such as the folder of a fold.
        tags: additional tags.
    """

    def __init__(
        self,
        config: RunConfig | FinetuneConfig,
        say: Callable[[str], None],
        kernels: Mapping[str, str] = MappingProxyType({}),
        *,
        part: str = "",
        tags: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.run_dir = Path(config.run.dir)
        self.folder = self.run_dir / part
        self.config = config
        self.tags = {f"kernels.{operation}": name for operation, name in kernels.items()} | dict(tags)
        if config.tracking.parent is not None:
            self.tags["mlflow.parentRunId"] = config.tracking.parent
        self.run_id = self._recorded = None
        try:
            self.run_id = self._recorded = _known_run(self.folder)
        except UserError as error:  # an MLflow failure never stops training
            say(str(error))
        self._name = f"{config.tracking.name or self.run_dir.name}/{part}".rstrip("/")
        self._say = say
        self._metrics_file = self.folder / run_files.METRICS
        self._queue: queue.Queue[tuple[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        if config.tracking.mlflow:
            self._thread.start()

    def log(self, line: dict[str, Any]) -> None:
        """Queue a line of metrics.jsonl; each value becomes the metric `<split>/<key>` at the step of the line."""
        self._put("metrics", (line, int(time.time() * 1000)))

    def log_artifact(self, path: Path) -> None:
        """Queue a file or folder for upload as an artifact."""
        self._put("artifact", path)

    def close(self, status: str) -> None:
        """Send all queued items, waiting at most `CLOSE_SECONDS`, and end the MLflow run.

        Args:
            status: status of the MLflow run: FINISHED, FAILED or KILLED.
        """
        if not self._thread.is_alive():
            return
        self._put("status", status)
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._say(f"MLflow: no response within {CLOSE_SECONDS:.0f} s; metrics are in {self._metrics_file}")

    def _put(self, kind: str, value: Any) -> None:
        if self.config.tracking.mlflow:
            self._queue.put((kind, value))

    def _work(self) -> None:
        """Send queued items every few seconds; keep items that could not be sent and retry them."""
        client, pending, warned, ended = None, [], False, False
        while not ended:
            items = [self._queue.get()]
            if items[0] is not None:
                time.sleep(FLUSH_SECONDS)
            while not self._queue.empty():
                items.append(self._queue.get())
            ended = None in items
            pending = (pending + [item for item in items if item is not None])[-MAX_PENDING:]
            try:
                client = client or self._connect()
                self._send(client, pending)
                pending = []
            except Exception as error:  # an MLflow failure never stops training
                if not warned:
                    reason = " ".join(redact(str(error)).split())[:200] or type(error).__name__
                    self._say(
                        f"MLflow is unreachable ({reason}); training continues, metrics are in {self._metrics_file}"
                    )
                warned = True

    def _send(self, client: Any, items: list[tuple[str, Any]]) -> None:
        metrics = [metric for kind, value in items if kind == "metrics" for metric in _metrics(*value)]
        for start in range(0, len(metrics), MAX_BATCH):
            client.log_batch(self.run_id, metrics=metrics[start : start + MAX_BATCH])
        for kind, value in items:
            if kind == "artifact":
                client.log_artifact(self.run_id, str(value))
            elif kind == "status":
                client.set_terminated(self.run_id, value)

    def _connect(self) -> Any:
        """Create a client, and start or resume the MLflow run."""
        from mlflow.entities import Param, RunTag

        client = connect(tracking_uri(self.run_dir))

        self.run_id = run_id = self._resume(client) or self._create(client)
        if self._recorded != run_id:
            content = {"tracking_uri": _stored_uri(), "run_id": run_id}
            write_json_atomic(self.folder / run_files.MLFLOW, content, indent=2)
            self._recorded = run_id
        known = client.get_run(run_id).data.params
        values = {_valid_name(key): redact(str(value))[:500] for key, value in flatten(self.config).items()}
        params = [Param(key, value) for key, value in values.items() if key not in known]
        for start in range(0, len(params), MAX_PARAMETERS):
            client.log_batch(run_id, params=params[start : start + MAX_PARAMETERS])
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in self.tags.items()])
        return client

    def _resume(self, client: Any) -> str | None:
        """Resume the MLflow run of this folder and return its id; None if the store does not have the run."""
        from mlflow.exceptions import MlflowException

        if self.run_id is not None:
            try:
                client.update_run(self.run_id, status="RUNNING")
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                uri = redact(tracking_uri(self.run_dir))
                self._say(f"the MLflow run {self.run_id} no longer exists in {uri}; starting a new one")
                self.run_id = None
        return self.run_id

    def _create(self, client: Any) -> str:
        experiment = experiment_id(client, self.config.tracking.experiment, self.run_dir)
        return client.create_run(experiment, run_name=self._name).info.run_id


def tracking_uri(run_dir: Path) -> str:
    """Tracking URI: MLFLOW_TRACKING_URI, or a SQLite file in the run folder if the variable is not set."""
    return server() or _sqlite_uri(run_dir.absolute() / run_files.MLFLOW_DATABASE)


def _sqlite_uri(file: Path) -> str:
    """URI of a SQLite file.

    SQLAlchemy decodes the path of a URI, so special characters must be encoded. If the URI starts with sqlite:///,
    MLflow would also create a folder at the encoded path; sqlite+pysqlite:/// avoids this.
    """
    path = str(file)
    return f"sqlite+pysqlite:///{quote(path)}" if set(path) & set("?%#") else f"sqlite:///{path}"


def server() -> str | None:
    """Value of MLFLOW_TRACKING_URI; None if the variable is not set or empty."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def _stored_uri() -> str | None:
    """Tracking URI to store in mlflow.json, without credentials."""
    uri = server()
    return uri and redact(uri)


@dataclass(frozen=True)
class _TrackedRun:
    """Content of mlflow.json."""

    run_id: RunId
    tracking_uri: str | None


def _known_run(folder: Path) -> str | None:
    """Run id in the folder's mlflow.json; None if there is no such file or the run is in another tracking store.

    Raises:
        UserError: mlflow.json is damaged.
    """
    path = folder / run_files.MLFLOW
    if not path.is_file():
        return None
    content = read_record(path, _TrackedRun, hint="starting a new MLflow run")
    return content.run_id if redact(content.tracking_uri or "") == (_stored_uri() or "") else None


def connect(uri: str) -> Any:
    """Create an MLflow client with short timeouts, few retries and no log output."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # callers retry or continue without MLflow
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # errors are raised as well
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=uri)


def experiment_id(client: Any, name: str, run_dir: Path) -> str:
    """Return the id of an experiment, which is created if missing.

    Without a tracking server, the artifacts of a new experiment are stored in the run folder.
    """
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    location = None if server() else (run_dir.absolute() / run_files.MLFLOW_ARTIFACTS).as_uri()
    return client.create_experiment(name, artifact_location=location)


def _valid_name(name: str) -> str:
    parts = NOT_IN_NAMES.sub("_", name).split("/")
    return "/".join("_" if part in NOT_IN_PATHS else part for part in parts)[:MAX_NAME_LENGTH].rstrip("/")


def _metrics(line: dict[str, Any], milliseconds: int) -> Iterator[Any]:
    """Convert a line of metrics.jsonl to MLflow metrics; lists and dicts become one metric per entry."""
    from mlflow.entities import Metric

    def flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
        if isinstance(value, dict):
            for key, entry in value.items():
                yield from flat(f"{name}/{key}", entry)
        elif isinstance(value, list):
            for number, entry in enumerate(value):
                yield from flat(f"{name}/stage{number}", entry)
        elif value is not None:
            yield name, float(value)

    line = line | ({"warnings": len(line["warnings"])} if "warnings" in line else {})
    for key, value in line.items():
        if key not in ("step", "split", *NOT_TRACKED):
            for name, number in flat(f"{line['split']}/{key}", value):
                yield Metric(_valid_name(name), number, milliseconds, line["step"])
