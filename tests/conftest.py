"""Fixtures shared by the tests of all packages."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.support.command import ldarnet  # noqa: F401
from tests.support.make_set import make_set  # noqa: F401
from tests.support.ranks import config_file, other_shards, run_ranks, shards, shards_of  # noqa: F401
from tests.support.ray_cluster import cluster  # noqa: F401
from tests.support.single_rank import process_group, world  # noqa: F401

settings.register_profile("ldarnet", deadline=None)  # a slow machine must not fail a test
settings.load_profile("ldarnet")

if not torch.cuda.is_available():
    # Triton reads this variable when it is imported, and transformers imports Triton.
    os.environ["TRITON_INTERPRET"] = "1"

os.environ["LDARNET_KERNEL_CACHE"] = "0"

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real genomes and the authors' golden outputs; not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"real data and golden outputs not found: {SHARED}")
    return SHARED
