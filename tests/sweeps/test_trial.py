"""What a worker starts, and what it reads of it."""

from pathlib import Path

from ldarnet.sweeps.trial import TrialJob, best_by_epoch, command_of


def job(**changes: object) -> TrialJob:
    whole = {"program": "finetune.py", "config": "a.yaml", "changes": {"run.dir": "a b", "folds.only": [3]}}
    return {**whole, "launcher": "deepspeed", "ranks": 2, "gpus": 0.0, **changes}  # type: ignore[return-value]


def test_arguments_are_read_as_they_were_meant():
    command = command_of(job(launcher="python"), {})
    assert command[1:] == ["finetune.py", "--config", "a.yaml", 'run.dir="a b"', "folds.only=[3]"]


def test_a_deepspeed_job_takes_the_gpus_that_ray_gave_it():
    environment = {"CUDA_VISIBLE_DEVICES": "4,6"}
    command = command_of(job(gpus=2.0), environment)
    assert command[command.index("--include") + 1] == "localhost:4,6"
    # Told a number, DeepSpeed's launcher begins with GPU 0, whatever CUDA_VISIBLE_DEVICES says; told both, it fails.
    assert "--num_accelerators" not in command and not environment
    command = command_of(job(), {})
    assert command[command.index("--num_accelerators") + 1] == "2"


def test_epochs_before_training_and_lines_under_way_are_passed_over(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    assert best_by_epoch(file, "mcc") == {}
    lines = [(0, 0.9), (1, 0.2), (2, None), (3, 0.1), (4, 0.3)]
    written = "".join(f'{{"epoch": {epoch}, "split": "valid", "mcc": {score}}}\n' for epoch, score in lines)
    file.write_text(written.replace("None", "null") + '{"epoch": 5, "split": "val')
    assert best_by_epoch(file, "mcc") == {1: 0.2, 3: 0.2, 4: 0.3}
