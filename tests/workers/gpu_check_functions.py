"""Checks for tests of `benchmarks.gpu_check`: they succeed, fail, hang or crash."""

import importlib
import os
import time
from typing import Any

from benchmarks.worker import report_partial


def identify(code: str) -> dict[str, Any]:
    """Report a machine; `code` is the identity of its results."""
    return {"identity": {"code": code, "device": "CPU"}, "made_with": ["- Hardware: none"]}


def process() -> dict[str, Any]:
    """Report the worker process and one of its environment variables."""
    return {"process": os.getpid(), "variable": os.environ.get("GPU_CHECK_TEST")}


def hang(done: int) -> dict[str, Any]:
    """Report partial results, then hang."""
    for number in range(done):
        report_partial({"steps": number + 1})
    time.sleep(600)
    return {}


def crash() -> dict[str, Any]:
    """Exit without a message."""
    os._exit(3)


def fail() -> dict[str, Any]:
    """Raise an error whose message has several lines."""
    raise RuntimeError("CUDA error: illegal address\n\nfor debugging,\nset CUDA_LAUNCH_BLOCKING=1")


def load(module: str) -> dict[str, Any]:
    """Import a module."""
    importlib.import_module(module)
    return {}
