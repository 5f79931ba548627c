"""Tracking with MLflow from rank 0, in a thread of its own: importing, connecting and writing never hold up a step.

If the store cannot be reached, training goes on and this is said once; everything is in metrics.jsonl anyway.
"""

import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ldarnet.config import FinetuneConfig, RunConfig, flatten
from ldarnet.io import run_files
from ldarnet.io.files import write_json_atomic

FLUSH_SECONDS = 2.0
CLOSE_SECONDS = 20.0
"""Less than the 30 seconds after which the launcher kills a rank that it has told to stop."""
NOT_TRACKED = ("boundary_histogram",)
"""Keys of a line that are no single numbers; `ldarnet report` draws them."""
NOT_IN_NAMES = re.compile(r"[^\w\-. :/]", re.ASCII)
"""What MLflow refuses in names; regions of a BED file and species may be called anything."""
NOT_IN_PATHS = ("", ".", "..")
"""Parts of a name between slashes that it refuses."""
USER_INFORMATION = re.compile(r"(?<=://)[^/?#\s]*@")
"""Name and password in a URI, or in a message that quotes one."""
MOST_LETTERS = 250
"""Of such a name."""
MOST_KEPT = 20_000
"""Lines kept for a store that does not answer, some 100 MB; of more the oldest are in metrics.jsonl alone."""
MAX_BATCH = 1000
"""Metrics in one request; the limit of MLflow's REST interface."""
MAX_PARAMETERS = 100
"""Parameters in one request, likewise."""


class Tracker:
    """One MLflow run, continued under the id kept in its folder's mlflow.json.

    Args:
        config: of the run.
        say: prints one line for the user.
        kernels: operation -> backend of this start, kept as tags ``kernels.<operation>`` of the run.
        name: of the run; the run folder's by default.
        part: folder inside the run's that has an MLflow run of its own, such as a fold's.
        tags: others of the run.
    """

    def __init__(
        self,
        config: RunConfig | FinetuneConfig,
        say: Callable[[str], None],
        kernels: Mapping[str, str] = MappingProxyType({}),
        *,
        name: str | None = None,
        part: str = "",
        tags: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.run_dir = Path(config.run.dir)
        self.folder = self.run_dir / part
        self.config = config
        self.tags = {f"kernels.{operation}": name for operation, name in kernels.items()} | dict(tags)
        self.run_id = _known_run(self.folder)
        self._name = f"{name or self.run_dir.name}/{part}".rstrip("/")
        self._say = say
        self._metrics_file = self.folder / run_files.METRICS
        self._queue: queue.Queue[tuple[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        if config.tracking.mlflow:
            self._thread.start()

    def log(self, line: dict[str, Any]) -> None:
        """Queue the numbers of a line of metrics.jsonl, named `<split>/<key>`, at its step."""
        self._put("metrics", (line, int(time.time() * 1000)))

    def log_artifact(self, path: Path) -> None:
        """Queue a file or folder to be kept with the run."""
        self._put("artifact", path)

    def close(self, status: str) -> None:
        """Write what is queued and end the run as FINISHED, FAILED or KILLED; waits `CLOSE_SECONDS` at most."""
        if not self._thread.is_alive():
            return
        self._put("status", status)
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._say(f"MLflow did not answer within {CLOSE_SECONDS:.0f} s; the metrics are in {self._metrics_file}")

    def _put(self, kind: str, value: Any) -> None:
        if self.config.tracking.mlflow:
            self._queue.put((kind, value))

    def _work(self) -> None:
        """Send what was queued every few seconds; what cannot be sent is kept and tried again."""
        client, pending, complained, ended = None, [], False, False
        while not ended:
            items = [self._queue.get()]
            if items[0] is not None:
                time.sleep(FLUSH_SECONDS)
            while not self._queue.empty():
                items.append(self._queue.get())
            ended = None in items
            pending = (pending + [item for item in items if item is not None])[-MOST_KEPT:]
            try:
                client = client or self._connect()
                self._send(client, pending)
                pending = []
            except Exception as error:  # whatever the store does, training goes on
                if not complained:
                    reason = " ".join(without_user(str(error)).split())[:200] or type(error).__name__
                    self._say(
                        f"MLflow cannot be reached ({reason}); training goes on, metrics are in {self._metrics_file}"
                    )
                complained = True

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
        """A client with a running run, new or continued."""
        from mlflow.entities import Param, RunTag

        client = connect(tracking_uri(self.run_dir))

        self.run_id = run_id = self._continued(client) or self._begun(client)
        if _known_run(self.folder) != run_id:
            write_json_atomic(self.folder / run_files.MLFLOW, {"tracking_uri": _kept_uri(), "run_id": run_id}, indent=2)
        known = client.get_run(run_id).data.params
        values = {_allowed(key): str(value)[:500] for key, value in flatten(self.config).items()}
        params = [Param(key, value) for key, value in values.items() if key not in known]
        for start in range(0, len(params), MAX_PARAMETERS):
            client.log_batch(run_id, params=params[start : start + MAX_PARAMETERS])
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in self.tags.items()])
        return client

    def _continued(self, client: Any) -> str | None:
        """The run of this folder, which runs again; None if the store has none."""
        from mlflow.exceptions import MlflowException

        if self.run_id is not None:
            try:
                client.update_run(self.run_id, status="RUNNING")
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                uri = without_user(tracking_uri(self.run_dir))
                self._say(f"the MLflow run {self.run_id} is not in {uri} any more; starting a new one")
                self.run_id = None
        return self.run_id

    def _begun(self, client: Any) -> str:
        experiment = experiment_id(client, self.config.tracking.experiment, self.run_dir)
        return client.create_run(experiment, run_name=self._name).info.run_id


def tracking_uri(run_dir: Path) -> str:
    """MLFLOW_TRACKING_URI, or else a sqlite file in the run folder."""
    return server() or f"sqlite:///{run_dir.absolute()}/{run_files.MLFLOW_DATABASE}"


def server() -> str | None:
    """MLFLOW_TRACKING_URI; None where it is not set."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def without_user(text: str) -> str:
    """A URI, or a text that quotes some, without names and passwords."""
    return USER_INFORMATION.sub("", text)


def _kept_uri() -> str | None:
    """What mlflow.json says of the store; passwords change, and files are passed on."""
    uri = server()
    return uri and without_user(uri)


def _known_run(folder: Path) -> str | None:
    """The id of the run that this folder has in the store, if any."""
    try:
        content = json.loads((folder / run_files.MLFLOW).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return content["run_id"] if without_user(content["tracking_uri"] or "") == (_kept_uri() or "") else None


def connect(uri: str) -> Any:
    """Create an MLflow client with short timeouts, few retries and no log output."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # callers retry or continue without MLflow
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def experiment_id(client: Any, name: str, run_dir: Path) -> str:
    """ID of an experiment, created if missing; without a server, its artifacts are stored in the run folder."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    location = None if server() else (run_dir.absolute() / run_files.MLFLOW_ARTIFACTS).as_uri()
    return client.create_experiment(name, artifact_location=location)


def _allowed(name: str) -> str:
    parts = NOT_IN_NAMES.sub("_", name).split("/")
    return "/".join("_" if part in NOT_IN_PATHS else part for part in parts)[:MOST_LETTERS].rstrip("/")


def _metrics(line: dict[str, Any], milliseconds: int) -> Iterator[Any]:
    """The numbers in a line as MLflow metrics; lists and dicts one metric an entry."""
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
                yield Metric(_allowed(name), number, milliseconds, line["step"])
