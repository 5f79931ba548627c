"""A fold that is stopped or killed and resumed equals an uninterrupted one."""

import shutil
import threading
import time

import pytest
import torch
from safetensors.torch import load_file

from ldarnet.errors import UserError
from ldarnet.finetuning.run import finetune_on
from ldarnet.runtime.run_dir import lock_run_dir
from tests.support.planted import lines, predictions, read_config, result, stop, write_config
from tests.support.ranks import WORKERS, Ranks

EPOCHS = 3
STEPS = 5  # per epoch


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    training = {"epochs": EPOCHS, "batch": 16, "accumulation": 2, "reverse_complement": True, "timeout_minutes": 2}
    folds = {"count": 4, "only": [0], "stratified": True}
    return write_config(tmp_path_factory.mktemp("resume"), training=training, folds=folds)


@pytest.fixture(scope="module")
def unbroken(world, config_file):
    config = read_config(config_file)
    finetune_on(world, config)
    return config.run.dir


def assert_equal_runs(one, other):
    """Compare metrics, predictions and weights, except for timings and commit."""
    assert lines(one) == lines(other)
    assert predictions(one) == predictions(other)
    of_a_launch = ("seconds", "commit")
    results = [{key: value for key, value in result(run).items() if key not in of_a_launch} for run in (one, other)]
    assert results[0] == results[1]
    weights = [load_file(run / "fold0/best/model.safetensors") for run in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not (other / "fold0/last").exists()


@pytest.fixture
def stopped(world, config_file, tmp_path):
    """Train a fold, stop it after the given number of steps, and return its configuration."""

    def stopped_after(steps):
        config = read_config(config_file, f"run.dir={tmp_path / 'stopped'}")
        stop(world, config, steps)
        return config

    return stopped_after


@pytest.mark.parametrize("after", [1, STEPS - 1, STEPS, 2 * STEPS + 2])
def test_stopped_fold_resumes_exactly(world, unbroken, stopped, after):
    config = stopped(after)
    assert finetune_on(world, config).finished
    assert_equal_runs(unbroken, config.run.dir)


def test_damaged_checkpoint_is_an_error_and_the_suggested_fix_works(world, unbroken, stopped):
    config = stopped(2)
    (weights,) = config.run.dir.glob("fold0/last/*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"model\.safetensors: SHA-256 differs.*; delete \S+/fold0 to retrain the"):
        finetune_on(world, config)
    shutil.rmtree(config.run.dir / "fold0")
    assert finetune_on(world, config).finished
    assert_equal_runs(unbroken, config.run.dir)


@pytest.mark.slow
def test_second_launch_waits_for_the_first(world, config_file, unbroken, tmp_path, capsys):
    seconds = 18.0
    # The timeout is shorter than the wait for the lock, which the watchdog ignores.
    changes = ("training.epochs=1", "training.timeout_minutes=0.25")
    config = read_config(config_file, f"run.dir={tmp_path / 'run'}", *changes)
    held = lock_run_dir(config.run.dir)
    threading.Timer(seconds, held.close).start()
    begin = time.monotonic()
    assert finetune_on(world, config).finished
    assert time.monotonic() - begin > seconds
    assert f"waiting for another process that is fine-tuning in {config.run.dir}" in capsys.readouterr().out


@pytest.mark.slow
def test_fold_killed_at_any_point_resumes_exactly(config_file, tmp_path):
    folder, killed = tmp_path / "runs", 6
    folder.mkdir()
    script = WORKERS / "killed_finetuning.py"
    Ranks(1, script, [str(config_file), str(folder), str(killed)]).succeed()
    runs = list(folder.glob("killed-*"))
    assert len(runs) >= killed // 2
    for run in runs:
        assert_equal_runs(folder / "unbroken", run)
