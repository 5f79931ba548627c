"""Sweeps over tasks, folds and settings on Ray Tune: `run_sweep(config, program)`."""

from ldarnet.sweeps.sweep import Sweep, run_sweep

__all__ = ["Sweep", "run_sweep"]
