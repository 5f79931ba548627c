"""`ldarnet finetune`: run as a single rank, or launch several ranks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from ldarnet.cli.training import Gpus, LocalRank, Overrides, Ranks, config_option, run_ranks
from ldarnet.program import OK, STOPPED, run

if TYPE_CHECKING:
    from ldarnet.config import FinetuneConfig


def finetune(
    config: Annotated[str, config_option("finetune", "nt")],
    overrides: Overrides = None,
    *,
    gpus: Gpus = None,
    ranks: Ranks = None,
    local_rank: LocalRank = None,
) -> int:
    """Fine-tune a model on classes or values of sequences, or classes of bases, with cross-validation.

    Run the same command again to resume: finished folds are kept, an unfinished fold resumes from its last checkpoint.
    The folder of a finished run contains the best fold's classifier and a summary of all folds.

    Exit status:
      0   finished
      1   wrong configuration, input or command line
      70  a rank died, failed or hung; run again to resume
      75  stopped by a signal with everything saved; run again to resume
    """
    from ldarnet.config import FinetuneConfig

    return run_ranks(__spec__.name, FinetuneConfig, _finetune, config, overrides, gpus, ranks)


def _finetune(config: FinetuneConfig) -> int:
    from ldarnet.finetuning.run import finetune as run_folds

    return OK if run_folds(config).finished else STOPPED


if __name__ == "__main__":
    sys.exit(run(finetune, name="ldarnet finetune"))
