"""Fixtures that every room's tests share."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real genomes and the authors' golden outputs, which is not part of the project."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the folder of real data and golden outputs at {SHARED}, which is not there")
    return SHARED
