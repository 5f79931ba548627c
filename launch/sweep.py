"""Run `ldarnet sweep` from a source checkout without installing the package; see `launch/sweep.py --help`."""

import sys
from pathlib import Path

if (root := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.insert(1, root)

from ldarnet.cli.sweep import sweep
from ldarnet.program import run

if __name__ == "__main__":
    sys.exit(run(sweep, name="launch/sweep.py"))
