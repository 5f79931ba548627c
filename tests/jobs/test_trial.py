"""Command line and environment of a trial."""

import pytest

from ldarnet.jobs.trial import ProgramJob, command_of, configured, environment_of


def job(**fields: object) -> ProgramJob:
    defaults = {"program": "finetune.py", "arguments": configured("a.yaml", {"run.dir": "a b", "folds.only": [3]})}
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


def test_programs_are_not_ranks_of_the_job_that_started_the_driver(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    environment = environment_of(job(defaults={"NODE": "0", "URI": "a"}, variables={"OMP_NUM_THREADS": "4"}))
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} & environment.keys()
    assert (environment["NODE"], environment["URI"], environment["OMP_NUM_THREADS"]) == ("1", "a", "4")
