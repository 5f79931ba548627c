"""Command line of a trial, and the metrics it reads."""

from pathlib import Path

import pytest

from ldarnet.sweeps.trial import DamagedFileError, TrialJob, best_by_epoch, command_of
from tests.support.damaged import damaged_bytes


def job(**fields: object) -> TrialJob:
    defaults = {"program": "finetune.py", "config": "a.yaml", "overrides": {"run.dir": "a b", "folds.only": [3]}}
    return {**defaults, "launcher": "deepspeed", "ranks": 2, "gpus": 0.0, **fields}  # type: ignore[return-value]


def test_overrides_are_json():
    command = command_of(job(launcher="python"), {})
    assert command[1:] == ["finetune.py", "--config", "a.yaml", 'run.dir="a b"', "folds.only=[3]"]


def test_deepspeed_job_uses_the_gpus_assigned_by_ray():
    environment = {"CUDA_VISIBLE_DEVICES": "4,6"}
    command = command_of(job(gpus=2.0), environment)
    assert command[command.index("--include") + 1] == "localhost:4,6"
    # DeepSpeed's launcher rejects --num_accelerators with --include; alone, it ignores CUDA_VISIBLE_DEVICES.
    assert "--num_accelerators" not in command and not environment
    command = command_of(job(), {})
    assert command[command.index("--num_accelerators") + 1] == "2"


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
