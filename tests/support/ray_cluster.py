"""One Ray cluster for the tests of a process, since it takes seconds to start and a process can have only one."""

import os

import pytest


@pytest.fixture
def cluster() -> None:
    """Ray cluster with two cores and one simulated GPU, until another test shuts it down or the process ends."""
    import ray

    from ldarnet.jobs.cluster import RAY_ENVIRONMENT

    os.environ.update(RAY_ENVIRONMENT)
    if not ray.is_initialized():
        ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
