"""`ldarnet pretrain`: run as a single rank, or launch several ranks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from ldarnet.cli.training import Gpus, LocalRank, Overrides, Ranks, config_option, run_ranks
from ldarnet.program import OK, STOPPED, is_rank_0, run

if TYPE_CHECKING:
    from ldarnet.config import RunConfig


def pretrain(
    config: Annotated[str, config_option("pretrain", "quickstart")],
    overrides: Overrides = None,
    *,
    gpus: Gpus = None,
    ranks: Ranks = None,
    local_rank: LocalRank = None,
) -> int:
    """Pretrain a model on a shard set.

    Run the same command again to resume an unfinished run. To start several ranks on this machine, use --gpus or
    --ranks; other launchers (deepspeed, torchrun, srun) work as well. The folder of a finished run contains an exported
    model, figures and a summary.

    Exit status:
      0   finished, or stopped at training.stop_after
      1   wrong configuration, input or command line
      70  a rank died, failed or hung; run again to resume from the last checkpoint
      75  stopped by a signal with everything saved; run again to resume
    """
    from ldarnet.config import RunConfig

    return run_ranks(__spec__.name, RunConfig, _train, config, overrides, gpus, ranks)


def _train(config: RunConfig) -> int:
    from ldarnet.pretraining import train

    result = train(config)
    if is_rank_0() and result.finished:
        from ldarnet.pretraining.results import write_results

        write_results(config, result)
    return STOPPED if not result.finished and result.signal is not None else OK


if __name__ == "__main__":
    sys.exit(run(pretrain, name="ldarnet pretrain"))
