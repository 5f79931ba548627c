"""Metrics that a trial reads."""

from pathlib import Path

import pytest

from ldarnet.sweeps.trial import DamagedFileError, best_by_epoch
from tests.support.damaged import damaged_bytes


def test_epoch_0_and_incomplete_lines_are_skipped(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    assert best_by_epoch(file, "mcc") == {}
    lines = [(0, 0.9), (1, 0.2), (2, None), (3, 0.1), (4, 0.3)]
    written = "".join(f'{{"epoch": {epoch}, "split": "valid", "mcc": {score}}}\n' for epoch, score in lines)
    file.write_text(written.replace("None", "null") + '{"epoch": 5, "split": "val')
    assert best_by_epoch(file, "mcc") == {1: 0.2, 3: 0.2, 4: 0.3}


@pytest.mark.parametrize(
    "line",
    [
        *damaged_bytes(b'{"epoch": 1, "split": "valid", "mcc": 0.5}').values(),
        b'{"split": "valid", "mcc": 0.5}',
        b'{"epoch": "1", "split": "valid"}',
        b'{"epoch": 1, "split": "valid", "mcc": "x"}',
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, line: bytes):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"epoch": 1, "split": "valid", "mcc": 0.2}\n' + line + b"\n")
    with pytest.raises(DamagedFileError, match=r"metrics.jsonl: line 2: damaged; delete the folder of the fold"):
        best_by_epoch(file, "mcc")
