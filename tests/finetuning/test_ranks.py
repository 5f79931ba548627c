"""Results do not depend on the number of ranks."""

import signal
import time

import pytest

from ldarnet.tasks.metrics import metrics_of
from tests.support.planted import lines, predictions, result, write_config, write_labeled, write_values
from tests.support.ranks import ROOT, WORKERS, Ranks

PROGRAM = ROOT / "launch/finetune.py"
SCRIPT = WORKERS / "several_finetunings.py"
VARIANTS = {
    "plain": "",
    "accumulated": "training.accumulation=2 training.epochs=1",
    "stage-3": "training.zero_stage=3",
    "probe": "training.mode=probe",
    "cnn": "model.baseline=cnn training.epochs=1",
}
BOTH_STRANDS = "folds.stratified=false evaluation.strands=2 training.reverse_complement=true"
TYPES = {
    "regression": f"task_type=regression {BOTH_STRANDS}",
    "bases": f"task_type=base_classification {BOTH_STRANDS} training.accumulation=2",
}
"""Types of tasks other than classification."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with each variant trained on one and on two ranks, as <ranks>/<variant>."""
    folder = tmp_path_factory.mktemp("ranks")
    config = write_config(folder, folds={"count": 4, "only": [1], "stratified": True}, evaluation={"batch": 7})
    own = {}
    for name, write in (("regression", write_values), ("bases", write_labeled)):
        train, test = (write(folder / f"{name}-{rows}.csv", rows, seed=rows) for rows in (96, 40))
        own[name] = f"{TYPES[name]} data.train={train} data.test={test}"
    for ranks in (1, 2):
        runs = [f"{config} run.dir={folder}/{ranks}/{name} {override}" for name, override in (VARIANTS | own).items()]
        Ranks(ranks, SCRIPT, runs).succeed()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_equal_one(folder, variant):
    one, two = folder / "1" / variant, folder / "2" / variant
    for ours, theirs in zip(lines(one, 1), lines(two, 1), strict=True):
        assert ours["bases_per_chunk"] == pytest.approx(theirs["bases_per_chunk"], rel=1e-3)
        assert ours["train_loss"] == (theirs["train_loss"] and pytest.approx(theirs["train_loss"], rel=1e-4))
        for key in ("epoch", "step", "loss", "mcc", "accuracy", "auroc"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-6)
    probabilities = [[float(row["p_yes"]) for row in predictions(run, 1)] for run in (one, two)]
    assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-4)
    assert result(one, 1)["test"] == pytest.approx(result(two, 1)["test"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", TYPES)
def test_two_ranks_equal_one_for_every_type_of_task(folder, name):
    one, two = folder / "1" / name, folder / "2" / name
    assert len(lines(one, 1)) > 1
    for ours, theirs in zip(lines(one, 1), lines(two, 1), strict=True):
        assert ours["bases_per_chunk"] == pytest.approx(theirs["bases_per_chunk"], rel=1e-3)
        for key in ("loss", "train_loss", *metrics_of(result(one, 1)["task_type"])):
            assert ours[key] == (theirs[key] and pytest.approx(theirs[key], rel=2e-3, abs=1e-5))
    assert result(one, 1)["test"] == pytest.approx(result(two, 1)["test"], rel=1e-3)


@pytest.mark.slow
def test_zero_stages_are_equivalent(folder):
    plain, other = (lines(folder / "2" / variant, 1) for variant in ("plain", "stage-3"))
    assert [line["loss"] for line in other] == pytest.approx([line["loss"] for line in plain], rel=1e-4)


@pytest.mark.slow
def test_exit_status_is_75_after_a_stop_signal(tmp_path):
    run = tmp_path / "run"
    settings = ["folds.only=[0]", "training.epochs=50", "training.stop_patience=50"]
    arguments = ["--config", str(write_config(tmp_path)), f"run.dir={run}", *settings]
    job = Ranks(1, PROGRAM, arguments, launched=False)
    deadline = time.monotonic() + 120
    while not ((run / "fold0/metrics.jsonl").is_file() and len(lines(run)) > 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    job.processes[0].send_signal(signal.SIGUSR1)
    ((status, output, errors),) = job.wait()
    assert status == 75, errors
    assert "stopped by SIGUSR1 in fold 0; progress is saved in" in output
    ((status, _, errors),) = Ranks(1, PROGRAM, [*arguments, "optimizer.lr=0.1"], launched=False).wait()
    assert status == 1
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
