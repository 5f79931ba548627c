"""One Ray cluster for all tests of a process, since it takes seconds to start and a process can have only one."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Ray cluster with two cores and one simulated GPU."""
    import ray

    from ldarnet.jobs.cluster import RAY_ENVIRONMENT

    os.environ.update(RAY_ENVIRONMENT)
    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()
