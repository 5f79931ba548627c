"""Sweeps on a running Ray cluster, and loss of one of its nodes."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from ldarnet.errors import TransientError
from ldarnet.jobs.cluster import ray_cluster
from tests.support.ranks import Ranks
from tests.support.sample_sweep import starts, write

pytestmark = pytest.mark.slow

DRIVER = """
import pathlib, sys
from tests.support import sample_sweep
from ldarnet.sweeps import report
report.write_comparison = lambda results, folder: None  # stubs write no test scores
sweep, printed, _ = sample_sweep.run(pathlib.Path(sys.argv[1]), *sys.argv[2:])
print(printed)
sys.exit(not sweep.done)
"""


@pytest.fixture(autouse=True)
def disconnected() -> None:
    """Shut down the cluster of earlier tests."""
    ray.shutdown()


@pytest.fixture
def machines() -> Iterator[Cluster]:
    """A simulated cluster of two nodes with one core each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def wait_for_files(folder: Path, name: str, number: int) -> None:
    until = time.monotonic() + 120
    while len(list(folder.rglob(name))) < number:
        assert time.monotonic() < until, f"fewer than {number} {name} files"
        time.sleep(0.1)


def test_sweep_survives_the_loss_of_a_node(machines: Cluster, run_ranks: Callable[..., Ranks], tmp_path: Path) -> None:
    path = write(tmp_path, epochs=4, script={"wait": 1})
    (tmp_path / "driver.py").write_text(DRIVER)
    arguments = (path, f"ray.address={machines.address}", "sweep.tasks=H3")
    driver = run_ranks(1, *arguments, script=tmp_path / "driver.py", launched=False)
    wait_for_files(path.parent, "metrics.jsonl", 2)
    (lost,) = machines.worker_nodes
    machines.remove_node(lost, allow_graceful=False)
    wait_for_files(path.parent, "saved", 1)
    (path.parent / "out" / "go").touch()
    printed = driver.succeed()
    assert len(list(path.parent.rglob("result.json"))) == 4
    for file in path.parent.rglob("metrics.jsonl"):
        assert [json.loads(line)["epoch"] for line in file.read_text().splitlines()] == [1, 2, 3, 4]
    assert "; retrying" in printed and sum(starts(path).values()) > 4
    with ray_cluster(machines.address):
        pass  # connects: the cluster is still running


def test_unreachable_cluster_is_a_transient_error() -> None:
    message = r"ray\.address=127\.0\.0\.1:1: no Ray cluster answers"
    with pytest.raises(TransientError, match=message), ray_cluster("127.0.0.1:1"):
        pass
