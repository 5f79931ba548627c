"""`ldarnet ablate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ldarnet.cli.training import Overrides, config_option, run_configured
from ldarnet.program import FAILED, OK, STOPPED, USER_ERROR

if TYPE_CHECKING:
    from ldarnet.config.ablation import AblationConfig


def ablate(
    config: Annotated[str, config_option("ablation", "yeast-small")],
    overrides: Overrides = None,
    *,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print arms, sizes, FLOPs and estimated hours, and stop.")
    ] = False,
) -> int:
    """Compare models at equal training cost: pretrain, fine-tune and report several arms on Ray Tune.

    Run the same command again to resume: finished runs are kept, unfinished ones resume from their last checkpoint.

    Exit status:
      0   finished
      1   wrong configuration, input or command line; or an arm is incomplete because of such an error
      70  some runs failed repeatedly, or the Ray cluster did not answer; run again to resume
      75  stopped by a signal with everything saved; run again to resume
    """
    from ldarnet.config.ablation import AblationConfig

    return run_configured(AblationConfig, _plan if plan else _ablate, config, overrides)


def _plan(config: AblationConfig) -> int:
    from ldarnet.ablation.estimate import describe_plan

    print(describe_plan(config))
    return OK


def _ablate(config: AblationConfig) -> int:
    from ldarnet.ablation.run import run_ablation

    outcome = run_ablation(config)
    if outcome.interrupted and not outcome.done:
        return STOPPED
    return FAILED if outcome.failed else OK if outcome.done else USER_ERROR
