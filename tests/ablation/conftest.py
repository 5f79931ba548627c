"""The Ray cluster of the sweep tests."""

from tests.sweeps.conftest import cluster

__all__ = ["cluster"]
