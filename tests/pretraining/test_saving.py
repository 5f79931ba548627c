"""Asynchronous checkpoints and their failures."""

import pytest
from safetensors.torch import load_file

from ldarnet.runtime.checkpoint import CheckpointStore, read_state
from ldarnet.runtime.metrics_file import read_metrics
from tests.support.ranks import WORKERS

SAVING_RANKS = WORKERS / "saving_ranks.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shards, run_ranks):
    folder = tmp_path_factory.mktemp("saving")
    config = folder / "config.yaml"
    config.write_text(
        f"""
run: {{dir: {folder}/run}}
model: {{preset: tiny}}
data: {{shards: {shards}, length: 64}}
training: {{steps: 10, batch: 4, timeout_minutes: 2}}
validation: {{every: 5, windows: 4}}
tracking: {{mlflow: false}}
"""
    )
    output = run_ranks(2, config, folder, script=SAVING_RANKS).succeed()
    messages = [(folder / f"messages-{rank}.txt").read_text().splitlines() for rank in range(2)]
    assert [line for line in messages[0] if line != "written late"] == messages[1]
    return folder, messages[0], output


def steps(run):
    return [int(path.name[-8:]) for path in CheckpointStore(run, 9).complete()]


def train_lines(run):
    return [line for line in read_metrics(run / "metrics.jsonl") if line["split"] == "train"]


def test_training_continues_while_a_checkpoint_is_written(runs):
    folder, messages, _ = runs
    assert messages[:3] == ["unbroken: trained", "written late", "late: trained"]
    assert steps(folder / "late") == [2, 4]
    assert all(line["checkpoint_stall_seconds"] < 30 for line in train_lines(folder / "late"))


def test_training_continues_when_the_disk_is_full(runs):
    folder, messages, output = runs
    run = folder / "full-for-a-while"
    assert "full-for-a-while: trained" in messages
    assert steps(run) == [2, 4, 10]
    assert "warning: checkpoint of step 6 not written: no space left on device while writing" in output
    counts = [line.get("checkpoint_failures", 0) for line in train_lines(run)]
    assert counts[:6] == [0] * 6
    assert counts[-1] == 2


def test_unwritten_checkpoint_is_not_the_best(runs):
    """The checkpoint of step 6, the first validated step, is not written, so the next validated step is the best."""
    state = read_state(runs[0] / "full-for-a-while/checkpoints/step-00000010")
    assert state.best_step == 10


def test_failure_of_the_last_checkpoint_is_an_error(runs):
    folder, messages, _ = runs
    failed, continued = (line for line in messages if line.startswith("full-at-the-end: "))
    assert failed.startswith("full-at-the-end: no space left on device while writing")
    assert failed.endswith("free some space and run the same command again")
    assert continued == "full-at-the-end: trained"
    assert steps(folder / "full-at-the-end")[-1] == 10


def test_failed_copy_does_not_end_the_run(runs):
    folder, _, output = runs
    assert "warning: checkpoints not copied, local checkpoints are complete (checkpoint.remote=file:" in output
    assert train_lines(folder / "late")[-1]["checkpoint_failures"] == 1
    assert not list(folder.glob("late-remote/*"))


def test_unreachable_remote_is_an_error_only_for_unfinished_runs(runs):
    """A finished run only warns, and can be exported."""
    _, messages, output = runs
    *_, finished, new = messages
    assert finished == "lost: trained"
    assert "warning: checkpoints not copied to checkpoint.remote: checkpoint.remote=file:" in output
    assert new.startswith("new: checkpoint.remote=file:")
    assert "cannot be reached (ConnectionError: no answer)" in new


def test_lost_folder_resumes_exactly_from_the_remote(runs):
    folder, messages, _ = runs
    assert messages[-4:-1] == ["lost: trained"] * 3
    for file in ("model.safetensors", "optimizer.safetensors"):
        expected, found = (
            load_file(folder / name / "checkpoints/step-00000010" / file) for name in ("unbroken", "lost")
        )
        assert expected.keys() == found.keys()
        assert all(tensor.equal(found[name]) for name, tensor in expected.items())
    assert {path.name for path in (folder / "remote").iterdir()} == {
        path.name for path in CheckpointStore(folder / "lost", 9).complete()
    }
