"""A run on several nodes as a Ray job: one `node.sh` a node, started again after faults.

    ray job submit --address http://HEAD:8265 --working-dir . \
        --runtime-env-json '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "300"}}' -- \
        python launch/cluster/ray_job.py --nodes 2 --gpus 8 --config FILE [section.key=value ...]

Ray's workers run in the project's environment; `run.dir` and `data.shards` lie on a disk that all nodes share, under
absolute paths, or the shards at a URL. Without GPUs (`--gpus 0`) each node has one rank on its CPU. `ray job stop` lets
all ranks save and end, within these 300 seconds; without them Ray kills the job after three.
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

NODE = Path(__file__).with_name("node.sh")
PORT = 29500
MISTAKE = 1
"""The status of a run that the same command cannot mend."""


@ray.remote(num_cpus=0)
class Node:
    """What runs on one node."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def address(self) -> str:
        """Where the other nodes find this one."""
        return ray.util.get_node_ip_address()

    def run(self, nodes: int, rank: int, master: str, slots: int, arguments: list[str]) -> int:
        """Run this node's ranks to their end; returns the status of `node.sh`."""
        if self._stopping:
            return os.EX_TEMPFAIL
        command = [str(NODE), str(nodes), str(rank), master, str(slots), *arguments]
        self._process = subprocess.Popen(command, env=os.environ | {"MASTER_PORT": str(PORT)})
        if self._stopping:
            self.stop()
        status = self._process.wait()
        return os.EX_TEMPFAIL if self._stopping and status < 0 else status  # node.sh was not ready for the signal yet

    def stop(self) -> None:
        """Let the ranks save and end, also those that are yet to begin."""
        self._stopping = True
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)


class RayJob:
    """The nodes of a run, and whether it was asked to stop."""

    def __init__(self, nodes: int, gpus: int, arguments: list[str]) -> None:
        self.nodes, self.gpus, self.arguments = nodes, gpus, arguments
        self._stopping = False
        self._actors: list = []

    def run(self, restarts: int) -> int:
        """Run, again after faults; returns the status."""
        for left in range(restarts, -1, -1):
            status = self._start()
            if status in (0, MISTAKE) or self._stopping:
                return status
            print(f"ended with status {status}; {left} restarts are left", file=sys.stderr, flush=True)
        return status

    def stop(self, *_: object) -> None:
        """The signal handler: all ranks save and end, and are not started again."""
        self._stopping = True
        for actor in self._actors:
            actor.stop.remote()

    def _start(self) -> int:
        """One start on nodes of its own; returns the highest of their statuses."""
        group = self._reserve()
        try:
            if self._stopping:
                return os.EX_TEMPFAIL
            self._actors = [self._node(group, rank) for rank in range(self.nodes)]
            master = ray.get(self._actors[0].address.remote())
            slots = max(self.gpus, 1)
            runs = [
                actor.run.remote(self.nodes, rank, master, slots, self.arguments)
                for rank, actor in enumerate(self._actors)
            ]
            if self._stopping:
                self.stop()
            return max(_status(run) for run in runs)
        except ray.exceptions.RayError as error:  # a node was lost before it began
            print(error, file=sys.stderr)
            return os.EX_SOFTWARE
        finally:
            self._actors = []
            remove_placement_group(group)

    def _reserve(self) -> PlacementGroup:
        """Whole nodes, waited for, for a lost one may have to be replaced; or less if the job is to stop."""
        bundle = {"GPU": self.gpus} if self.gpus else {"CPU": 1}
        group = placement_group([bundle] * self.nodes, strategy="STRICT_SPREAD")
        while not group.wait(30) and not self._stopping:
            print(f"waiting for {self.nodes} nodes with {bundle} each; see `ray status`", file=sys.stderr, flush=True)
        return group

    def _node(self, group: PlacementGroup, rank: int) -> ray.actor.ActorHandle:
        place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
        return Node.options(  # type: ignore[attr-defined]
            num_gpus=self.gpus, scheduling_strategy=place, max_concurrency=2
        ).remote()


def _status(run: ray.ObjectRef) -> int:
    """The status of a node's ranks; that of a fault if the node was lost."""
    try:
        return ray.get(run)
    except ray.exceptions.RayError as error:
        print(error, file=sys.stderr)
        return os.EX_SOFTWARE


def main() -> int:
    """Run the program; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True, help="of a node")
    parser.add_argument("--restarts", type=int, default=20, help="after faults")
    options, arguments = parser.parse_known_args()
    ray.init()
    job = RayJob(options.nodes, options.gpus, arguments)
    signal.signal(signal.SIGTERM, job.stop)
    return job.run(options.restarts)


if __name__ == "__main__":
    sys.exit(main())
