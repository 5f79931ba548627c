"""SIGKILL at any point of writing a checkpoint loses at most that checkpoint."""

import json

import pytest
from safetensors.torch import load_file

from ldarnet.runtime.metrics_file import read_metrics
from tests.support.ranks import WORKERS


@pytest.mark.slow
def test_launch_finds_the_newest_complete_checkpoint(config_file, run_ranks, tmp_path):
    """The writer of step 6 is killed; steps 2 (best) and 4 are complete locally and remotely.

    With checkpoint.keep=1, the best checkpoint and one other are retained.
    """
    output = run_ranks(1, config_file, tmp_path, script=WORKERS / "killed_writer.py").succeed()
    killed = [json.loads(line) for line in output.splitlines()]
    points = [entry["point"] for entry in killed]
    appeared = next(i for i, point in enumerate(points) if point == "os.rename .step-00000006.partial")
    assert len(points) > 60
    assert {"half of model.safetensors", "half of manifest.json", "fsync"} < set(points)
    for number, entry in enumerate(killed):
        assert entry["status"] == -9
        step = 6 if number > appeared else 4
        assert entry["local"] == {"step": step, "steps": [2, step], "other": ["pointers.json"], "bytes_match": True}, (
            entry
        )
        sent = number > points.index("half of manifest.json")
        step = 6 if sent else 4
        assert entry["remote_only"] == {**entry["local"], "step": step, "steps": [2, step]}, entry
        assert entry["resumed"] == 0
        assert entry["final"] == [["step-00000002", "step-00000008"]] * 2, entry


@pytest.mark.slow
def test_resume_after_kill_is_exact(config_file, run_ranks, tmp_path):
    run_ranks(1, config_file, tmp_path, 4, script=WORKERS / "killed_training.py").succeed()
    unbroken, *killed = sorted(tmp_path.glob("*/checkpoints/step-00000006"), reverse=True)
    assert len(killed) == 4
    for checkpoint in killed:
        for file in ("model.safetensors", "optimizer.safetensors"):
            expected, found = load_file(unbroken / file), load_file(checkpoint / file)
            assert expected.keys() == found.keys()
            assert all(found[name].equal(tensor) for name, tensor in expected.items()), checkpoint
    losses = logged(unbroken)
    for checkpoint in killed:
        assert logged(checkpoint)[-2:] == losses[-2:]


def logged(checkpoint):
    lines = read_metrics(checkpoint.parents[1] / "metrics.jsonl")
    return [(line["step"], line["loss"]) for line in lines if line["split"] == "train"]
