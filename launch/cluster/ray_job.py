"""Pretrain on several nodes as a Ray job: run `node.sh` on each node, and restart after failures.

    ray job submit --address http://HEAD:8265 --working-dir . \
        --runtime-env-json '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "300"}}' -- \
        python launch/cluster/ray_job.py --nodes 2 --gpus 8 --config FILE [section.key=value ...]

Ray workers must run in the project's environment. `run.dir` and `data.shards` must be absolute paths on a shared
file system; `data.shards` can also be a URL. With `--gpus 0`, each node runs one rank on its CPU. On `ray job stop`,
all ranks save and exit. Ray kills the job after RAY_JOB_STOP_WAIT_TIME_S seconds, 3 by default.
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
USER_ERROR = 1
"""Exit status of a user error; a restart cannot fix it."""


@ray.remote(num_cpus=0)
class Node:
    """Actor that runs `node.sh` on one node."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def address(self) -> str:
        """IP address of this node."""
        return ray.util.get_node_ip_address()

    def run(self, nodes: int, rank: int, master: str, slots: int, arguments: list[str]) -> int:
        """Run ``slots`` ranks on this node; return the exit status of `node.sh`.

        ``rank`` is the index of this node among the nodes.
        """
        if self._stopping:
            return os.EX_TEMPFAIL
        command = [str(NODE), str(nodes), str(rank), master, str(slots), *arguments]
        self._process = subprocess.Popen(command, env=os.environ | {"MASTER_PORT": str(PORT)})
        if self._stopping:
            self.stop()
        status = self._process.wait()
        return os.EX_TEMPFAIL if self._stopping and status < 0 else status  # killed before it set its signal handler

    def stop(self) -> None:
        """Make the ranks save and stop; if `run` has not been called yet, a later call launches nothing."""
        self._stopping = True
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)


class RayJob:
    """Runs pretraining on several nodes, and restarts it after failures.

    Args:
        nodes: number of nodes.
        gpus: number of GPUs per node, each used by one rank; 0 for one CPU rank per node.
        arguments: command-line arguments of `launch/pretrain.py`.
    """

    def __init__(self, nodes: int, gpus: int, arguments: list[str]) -> None:
        self.nodes, self.gpus, self.arguments = nodes, gpus, arguments
        self._stopping = False
        self._actors: list = []

    def run(self, restarts: int) -> int:
        """Run until training finishes, restarting at most `restarts` times after failures; return the exit status."""
        for remaining in range(restarts, -1, -1):
            status = self._attempt()
            if status in (0, USER_ERROR) or self._stopping:
                return status
            print(f"exited with status {status}; restarts remaining: {remaining}", file=sys.stderr, flush=True)
        return status

    def stop(self, *_: object) -> None:
        """Signal handler: make all ranks save and exit, and do not restart them."""
        self._stopping = True
        for actor in self._actors:
            actor.stop.remote()

    def _attempt(self) -> int:
        """Reserve nodes and launch the ranks once; return the maximum exit status of all nodes."""
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
        except ray.exceptions.RayError as error:  # a node was lost before its ranks started
            print(error, file=sys.stderr)
            return os.EX_SOFTWARE
        finally:
            self._actors = []
            remove_placement_group(group)

    def _reserve(self) -> PlacementGroup:
        """Reserve resources on `nodes` different nodes; wait until they are available or the job is stopped."""
        bundle = {"GPU": self.gpus} if self.gpus else {"CPU": 1}
        group = placement_group([bundle] * self.nodes, strategy="STRICT_SPREAD")
        while not group.wait(30) and not self._stopping:
            print(f"waiting for {self.nodes} nodes with {bundle} each; see `ray status`", file=sys.stderr, flush=True)
        return group

    def _node(self, group: PlacementGroup, rank: int) -> ray.actor.ActorHandle:
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
        return Node.options(  # type: ignore[attr-defined]
            num_gpus=self.gpus, scheduling_strategy=strategy, max_concurrency=2
        ).remote()


def _status(run: ray.ObjectRef) -> int:
    """Wait for the run on a node and return its exit status; EX_SOFTWARE if the node was lost."""
    try:
        return ray.get(run)
    except ray.exceptions.RayError as error:
        print(error, file=sys.stderr)
        return os.EX_SOFTWARE


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True, help="number of GPUs per node; 0 for one CPU rank per node")
    parser.add_argument("--restarts", type=int, default=20, help="maximum number of restarts after failures")
    options, arguments = parser.parse_known_args()
    ray.init()
    job = RayJob(options.nodes, options.gpus, arguments)
    signal.signal(signal.SIGTERM, job.stop)
    return job.run(options.restarts)


if __name__ == "__main__":
    sys.exit(main())
