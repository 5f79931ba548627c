"""`ldarnet sweep`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from ldarnet.cli.training import Overrides, config_option, run_configured
from ldarnet.program import FAILED, OK, STOPPED, USER_ERROR

if TYPE_CHECKING:
    from ldarnet.config.sweep import SweepConfig


def sweep(config: Annotated[str, config_option("sweep", "nt18")], overrides: Overrides = None) -> int:
    """Search fine-tuning settings over tasks and folds with Ray Tune.

    Run the same command again to resume: finished folds are kept, unfinished ones resume from their last checkpoint.

    Exit status:
      0   finished
      1   wrong configuration, input or command line; or a task has no result because none of its settings work
      70  some folds failed repeatedly, or the Ray cluster did not answer; run again to resume
      75  stopped by a signal with everything saved; run again to resume
    """
    from ldarnet.config.sweep import SweepConfig

    return run_configured(SweepConfig, _sweep, config, overrides)


def _sweep(config: SweepConfig) -> int:
    from ldarnet.sweeps import run_sweep

    outcome = run_sweep(config)
    if outcome.interrupted and not outcome.done:
        return STOPPED
    return FAILED if outcome.failed else OK if outcome.done else USER_ERROR
