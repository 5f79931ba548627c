"""Connect to a Ray cluster for running trials, and check the resources of the cluster."""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ldarnet.config.resources import TrialResources
from ldarnet.errors import TransientError, UserError
from ldarnet.ray_cluster import connect

OBJECT_STORE_BYTES = 100 * 2**20
"""Size of the Ray object store; small, because trials report only a few numbers."""
PROBE_SECONDS = 120
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Connect to a Ray cluster for the duration of the block.

    If `address` is None, start a cluster on this machine, and shut it down after the block. If this process is already
    connected to a cluster, use this connection, and leave it open after the block.

    Raises:
        TransientError: the cluster does not answer.
    """
    os.environ.update({name: value for name, value in RAY_ENVIRONMENT.items() if name not in os.environ})
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    local: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    connect(address, "ray.address=", local)
    try:
        yield
    finally:
        ray.shutdown()


def gpus_per_trial(requested: TrialResources, key: str) -> float:
    """Number of GPUs per trial. The default is one per rank if the cluster has GPUs, and 0 otherwise.

    Args:
        requested: resources of a trial.
        key: configuration key of these resources, for error messages.

    Raises:
        UserError: no node has the resources that a trial needs. Ray would wait for such a node forever.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    max_gpus = max(node.get("GPU", 0.0) for node in nodes)
    gpus = requested.gpus if requested.gpus is not None else float(requested.ranks if max_gpus else 0)
    for node in nodes:
        if node.get("CPU", 0.0) >= requested.cpus and node.get("GPU", 0.0) >= gpus:
            return gpus
    cores = max(node.get("CPU", 0.0) for node in nodes)
    raise UserError(
        f"{key}.cpus={requested.cpus:g} and {key}.gpus={gpus:g}: no node of the cluster has enough "
        f"of both (maximum per node: {cores:g} CPU cores, {max_gpus:g} GPUs); lower these settings, or use larger nodes"
    )


def check_shared(folder: Path, key: str) -> None:
    """Check that a folder of this machine is visible on all nodes of the cluster.

    Args:
        folder: the folder.
        key: configuration key of the folder, for error messages.

    Raises:
        UserError: the folder is not visible on a node.
        TransientError: a node does not answer.
    """
    probe = folder / f".probe-{secrets.token_hex(4)}"
    probe.touch()
    try:
        exists = ray.remote(num_cpus=0)(os.path.exists)  # a function from ldarnet would take seconds to import
        nodes = [node for node in ray.nodes() if node["Alive"]]
        strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        answers = [exists.options(scheduling_strategy=strategy).remote(str(probe)) for strategy in strategies]
        for node, seen in zip(nodes, ray.get(answers, timeout=PROBE_SECONDS), strict=True):
            if not seen:
                address = node["NodeManagerAddress"]
                raise UserError(
                    f"{key}={folder}: not visible on node {address}; use a folder on a shared file system that all "
                    "nodes mount at the same path"
                )
    except ray.exceptions.GetTimeoutError:
        raise TransientError(
            f"a node of the Ray cluster did not answer within {PROBE_SECONDS} s; check it with `ray status`"
        ) from None
    finally:
        probe.unlink(missing_ok=True)
