"""One Ray cluster for all tests of this folder: it takes many seconds to start."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Two cores, and a GPU that Ray only believes in."""
    import ray

    from ldarnet.sweeps.cluster import SETTINGS

    os.environ.update(SETTINGS)
    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()
