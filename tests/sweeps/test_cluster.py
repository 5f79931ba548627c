"""Sweeps on a Ray cluster that runs already, and what becomes of them when a machine of it is lost."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from ldarnet.errors import TransientError
from ldarnet.sweeps.cluster import joined
from tests.support.sample_sweep import STAND_IN, starts, write

pytestmark = pytest.mark.slow

DRIVER = """
import pathlib, sys
from tests.support import sample_sweep
from ldarnet.sweeps import report
report.write_comparison = lambda results, folder: None  # stand-ins know no test rows to compare
sweep, printed, _ = sample_sweep.run(pathlib.Path(sys.argv[1]), *sys.argv[2:])
print(printed)
sys.exit(not sweep.done)
"""


@pytest.fixture
def machines() -> Iterator[Cluster]:
    """A cluster of two machines of one core each, as far as Ray knows."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def wait_for_files(folder: Path, name: str, number: int) -> None:
    until = time.monotonic() + 120
    while len(list(folder.rglob(name))) < number:
        assert time.monotonic() < until, f"{number} of {name}"
        time.sleep(0.1)


def test_a_sweep_on_a_running_cluster_outlives_a_machine(machines: Cluster, tmp_path: Path) -> None:
    path = write(tmp_path, epochs=4, script={"wait": 1})
    environment = {**os.environ, "PYTHONPATH": str(STAND_IN.parents[2])}
    command = [sys.executable, "-c", DRIVER, str(path), f"ray.address={machines.address}", "sweep.tasks=H3"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as driver:
        wait_for_files(path.parent, "metrics.jsonl", 2)
        (lost,) = machines.worker_nodes
        machines.remove_node(lost, allow_graceful=False)
        wait_for_files(path.parent, "saved", 1)
        (path.parent / "out" / "go").touch()
        assert driver.stdout is not None
        printed = driver.stdout.read()
    assert driver.returncode == 0, printed
    assert len(list(path.parent.rglob("result.json"))) == 4
    for file in path.parent.rglob("metrics.jsonl"):
        assert [json.loads(line)["epoch"] for line in file.read_text().splitlines()] == [1, 2, 3, 4]
    assert "it is begun again" in printed and sum(starts(path).values()) > 4
    with joined(machines.address):
        """The cluster is still there."""


def test_a_cluster_that_does_not_answer_is_an_error_that_may_pass() -> None:
    with pytest.raises(TransientError, match=r"ray\.address=127\.0\.0\.1:1: no cluster answers"), joined("127.0.0.1:1"):
        pass
