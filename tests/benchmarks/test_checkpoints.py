"""Measurements of the checkpoint benchmark."""

import pytest


@pytest.mark.slow
def test_measured_row_has_plausible_times(run_ranks, tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from benchmarks.checkpoints import measure\n"
        "from ldarnet.runtime import distributed\n"
        "world = distributed.start(2)\n"
        "print(*measure('tiny', 1, 2, Path(sys.argv[1]), world))\n"
        "distributed.stop()\n"
    )
    (tmp_path / "measure.py").write_text(code)
    (tmp_path / "out").mkdir()
    output = run_ranks(1, tmp_path / "out", script=tmp_path / "measure.py", launched=False).succeed()
    preset, stage, _, _, first, stall, written, *_ = output.split()
    assert (preset, stage) == ("tiny", "1")
    assert all(0 < float(seconds) < 60 for seconds in (first, stall, written))
    assert list((tmp_path / "out").iterdir()) == []
