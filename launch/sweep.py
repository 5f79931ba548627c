"""Search settings of fine-tuning over tasks and folds: `python launch/sweep.py --config FILE [section.key=value ...]`.

The same command continues a sweep: folds that are finished are not trained again, others go on from their last epoch.

Exit status: 0 done; 75 stopped by a signal, run it again; 70 some folds were given up after several trials, or the
cluster did not answer, run it again; 1 a mistake that only the user can mend, so that a task has no result.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(1, str(ROOT))

from launch.program import exit_status, read_arguments, read_config  # noqa: E402


def main() -> int:
    """Run the program; returns its exit status."""
    arguments = read_arguments(__doc__, "configs/sweep/nt18.yaml", ranks=False, program="sweep")
    from ldarnet.config.sweep import SweepConfig
    from ldarnet.runtime import FAILED_STATUS, STOPPED_STATUS
    from ldarnet.sweeps import run_sweep

    def work() -> int:
        config = read_config(arguments, SweepConfig)
        sweep = run_sweep(config, ROOT / "launch" / "finetune.py")
        if sweep.interrupted and not sweep.done:
            return STOPPED_STATUS
        return FAILED_STATUS if sweep.failed else 0 if sweep.done else 1

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
