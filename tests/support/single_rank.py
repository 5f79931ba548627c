"""A process group with a single rank, for tests that train in this process."""

from collections.abc import Iterator

import pytest

from ldarnet.runtime import distributed
from ldarnet.runtime.distributed import World
from ldarnet.runtime.ports import free_port

RANK_OF_ONE = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "CUDA_VISIBLE_DEVICES": "",
}


@pytest.fixture(scope="session")
def process_group() -> Iterator[World]:
    """Process group of one rank on the CPU; DeepSpeed can be initialized once per process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (RANK_OF_ONE | {"MASTER_PORT": str(free_port())}).items():
            patch.setenv(name, value)
        world = distributed.start(timeout_minutes=2)
    yield world
    distributed.stop()


@pytest.fixture(scope="module")
def world(process_group: World) -> Iterator[World]:
    """World of one rank; its environment variables are set only for the tests of this module."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RANK_OF_ONE.items():
            patch.setenv(name, value)
        yield process_group
