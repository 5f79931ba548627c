"""Fine-tune on one task: `python launch/finetune.py --config FILE [key=value ...]`, or several ranks with `deepspeed`.

The same command continues: finished folds are left as they are, an unfinished one goes on from its last epoch. At the
end rank 0 leaves a summary of all folds and the best one's classifier in the run folder.

Exit status: 0 done; 75 stopped by a signal, everything is saved, run it again; 70 a rank died, failed or hung, or
something that may pass is wrong, run it again; 1 a mistake that only the user can mend.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(1, str(ROOT))

from launch.program import exit_status, read_arguments, read_config  # noqa: E402


def main() -> int:
    """Run the program; returns its exit status."""
    arguments = read_arguments(__doc__, "configs/finetune/nt.yaml", ranks=True, program="finetune")
    from ldarnet.config import FinetuneConfig
    from ldarnet.finetuning.run import finetune
    from ldarnet.runtime import STOPPED_STATUS

    def work() -> int:
        config = read_config(arguments, FinetuneConfig)
        return 0 if finetune(config).finished else STOPPED_STATUS

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
