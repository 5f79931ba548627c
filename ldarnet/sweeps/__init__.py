"""Sweeps over tasks, folds and fine-tuning settings on Ray Tune: `run_sweep(config)`."""

from ldarnet.extras import optional_imports

with optional_imports(__name__):
    from ldarnet.sweeps.sweep import Sweep, run_sweep

__all__ = ["Sweep", "run_sweep"]
