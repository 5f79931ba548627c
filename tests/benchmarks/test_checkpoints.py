"""Measurements of the checkpoint benchmark."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_measured_row_has_plausible_times(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from benchmarks.checkpoints import measure\n"
        "from ldarnet.runtime import distributed\n"
        "world = distributed.start(2)\n"
        "print(*measure('tiny', 1, 2, Path(sys.argv[1]), world))\n"
        "distributed.stop()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    preset, stage, _, _, stall, written, *_ = done.stdout.split()
    assert (preset, stage) == ("tiny", "1")
    assert 0 < float(stall) < 60 and 0 < float(written) < 60
    assert list(tmp_path.iterdir()) == []
