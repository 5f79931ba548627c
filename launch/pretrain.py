"""Pretrain: `deepspeed launch/pretrain.py --config FILE [section.key=value ...]`, or with plain `python` on one device.

The same command continues an unfinished run and says so; a finished one is left as it is. At the end rank 0 leaves an
exported Hugging Face folder, figures and a summary in the run folder.

Exit status: 0 done, or stopped as planned; 75 stopped by a signal, everything is saved, run it again; 70 a rank died,
failed or hung, or something that may pass is wrong, run it again from the last checkpoint; 1 a mistake that only the
user can mend.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(1, str(ROOT))

from launch.program import exit_status, is_main, read_arguments, read_config  # noqa: E402


def main() -> int:
    """Run the program; returns its exit status."""
    arguments = read_arguments(__doc__, "configs/pretrain/quickstart.yaml", ranks=True)
    from ldarnet.config import RunConfig
    from ldarnet.pretraining import train
    from ldarnet.runtime import STOPPED_STATUS

    def work() -> int:
        config = read_config(arguments, RunConfig)
        result = train(config)
        if is_main() and result.finished:
            from ldarnet.pretraining.results import leave_results

            leave_results(config, result)
        return STOPPED_STATUS if not result.finished and result.signal is not None else 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
