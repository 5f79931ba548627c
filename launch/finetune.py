"""Run `ldarnet finetune` from a source checkout without installing the package; see `launch/finetune.py --help`."""

import sys
from pathlib import Path

if (root := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.insert(1, root)

from ldarnet.io.early_stop import early_stops
from ldarnet.program import run

if __name__ == "__main__":
    with early_stops():
        from ldarnet.cli.finetune import finetune

        sys.exit(run(finetune, name="launch/finetune.py"))
