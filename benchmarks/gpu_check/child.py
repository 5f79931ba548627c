"""Entry point of the worker process."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from typing import Any

from benchmarks.gpu_check.results import NOT_RUN, Result

OWN_PACKAGES = ("", "benchmarks", "ldarnet", "sharding", "tests")


def run_check(function: str, settings: dict[str, Any]) -> Result:
    """Call a function and return its result; if a package is missing, return the reason under `NOT_RUN`.

    Args:
        function: `<module>:<function>`; the module is imported here.
        settings: keyword arguments.
    """
    module, _, name = function.partition(":")
    try:
        return getattr(import_module(module), name)(**settings)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in OWN_PACKAGES:
            raise
        return {NOT_RUN: f"{package} is not installed"}
    finally:
        release_memory()


def release_memory() -> None:
    """Return the memory that torch caches to the GPU, so that every check starts with an empty cache."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
