"""The Ray cluster of a sweep: one of this machine for the sweep alone, or one that runs already."""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ldarnet.config.sweep import ResourcesSection
from ldarnet.errors import TransientError, UserError
from ldarnet.ray_cluster import connect

OBJECT_STORE_BYTES = 100 * 2**20
"""Trials pass a few numbers."""
PROBE_SECONDS = 120
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Be connected to a cluster inside the block; without an address, to a new one that ends with it.

    A program that is connected already stays so, to whatever it is.

    Raises:
        TransientError: no cluster answers.
    """
    os.environ.update({name: value for name, value in SETTINGS.items() if name not in os.environ})
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    connect(address, "ray.address=", own)
    try:
        yield
    finally:
        ray.shutdown()


def gpus_of_a_trial(asked: ResourcesSection) -> float:
    """GPUs of a trial, after a look at what the cluster has.

    Raises:
        UserError: no machine of the cluster has what one trial takes: Ray would wait for ever.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = max(node.get("GPU", 0.0) for node in nodes)
    gpus = asked.gpus if asked.gpus is not None else float(asked.ranks if most else 0)
    for node in nodes:
        if node.get("CPU", 0.0) >= asked.cpus and node.get("GPU", 0.0) >= gpus:
            return gpus
    cores = max(node.get("CPU", 0.0) for node in nodes)
    raise UserError(
        f"a trial takes resources.cpus={asked.cpus:g} and resources.gpus={gpus:g}, and no machine of the cluster has "
        f"that: the largest have {cores:g} CPU cores and {most:g} GPUs; lower them, or start the cluster with more"
    )


def check_shared(folder: Path) -> None:
    """Check that every machine of the cluster sees a folder of this one.

    Raises:
        UserError: one does not.
    """
    probe = folder / f".probe-{secrets.token_hex(4)}"
    probe.touch()
    try:
        look = ray.remote(num_cpus=0)(os.path.exists)  # importing a function of ours would take seconds
        nodes = [node for node in ray.nodes() if node["Alive"]]
        there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        answers = [look.options(scheduling_strategy=place).remote(str(probe)) for place in there]
        for node, seen in zip(nodes, ray.get(answers, timeout=PROBE_SECONDS), strict=True):
            if not seen:
                address = node["NodeManagerAddress"]
                raise UserError(
                    f"sweep.dir={folder} is not seen by {address} of the cluster; name a folder on a disk that all its "
                    "machines share under the same path"
                )
    except ray.exceptions.GetTimeoutError:
        raise TransientError(f"a machine of the cluster does not answer within {PROBE_SECONDS} s; look at it") from None
    finally:
        probe.unlink(missing_ok=True)
