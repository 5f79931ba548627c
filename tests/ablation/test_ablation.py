"""Ablations on Ray with stubs of the training programs: order, choice of learning rates, failures and resume."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ldarnet.errors import UserError
from tests.support.ranks import Ranks
from tests.support.sample_ablation import run, starts, write
from tests.support.waiting import wait_for_lines

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

RUNS_OF_A_SEED = ("pretrain", "nt/H3/probe", "nt/H3/finetune")


@pytest.fixture(autouse=True)
def reports(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders for which a report was written; the stubs write too little for a real one."""
    written: list[Path] = []
    monkeypatch.setattr("ldarnet.ablation.run.write_report", written.append)
    return written


def runs_of(arm: str) -> set[str]:
    return {f"{arm}/seed{seed}/{name}" for seed in (0, 1) for name in RUNS_OF_A_SEED} | {arm}


def arguments(path: Path, name: str) -> dict[str, str]:
    return json.loads((path.parent / "out" / "arms" / name / "arguments.json").read_text())


def test_learning_rates_are_chosen_by_loss_and_killed_runs_resume(tmp_path: Path, reports: list[Path]) -> None:
    losses = {"learned/lr/0.001": 1.2, "grid/lr/0.01": 1.1}
    path = write(tmp_path, script={"losses": losses, "steps": 2, "faults": {"grid/seed1/pretrain": {"kill": 1}}})
    ablation, printed, record = run(path)
    assert ablation.done and not ablation.failed and not ablation.interrupted
    found = starts(path)
    assert found.pop("grid/seed1/pretrain") == 2 and set(found.values()) == {1}
    searched = {f"{arm}/lr/{lr}" for arm in ("learned", "grid") for lr in ("0.001", "0.01")}
    assert {*found, "grid/seed1/pretrain"} == runs_of("learned") | runs_of("grid") | searched
    assert "killed by SIGKILL" in printed and "; retrying" in printed
    arms = record["arms"]
    assert arms["learned"]["lr"] == 0.001 and arms["grid"]["lr"] == 0.01
    assert arms["learned"]["lr_scores"] == {"0.001": 1.2, "0.01": 1.3}
    assert {seed["state"] for arm in arms.values() for seed in arm["seeds"].values()} == {"finished"}
    assert (record["reference"], record["seeds"], record["bases"]) == ("learned", [0, 1], 10 * 4 * 60)
    assert (record["tasks"], record["modes"]) == (["nt/H3"], ["probe", "finetune"])
    pretraining = arguments(path, "grid/seed1/pretrain")
    assert (pretraining["optimizer.lr"], pretraining["run.seed"]) == ("0.01", "1")
    assert "training.steps" not in pretraining and arguments(path, "grid/lr/0.01")["training.steps"] == "5"
    probe = arguments(path, "grid/seed1/nt/H3/probe")
    assert (probe["training.mode"], probe["run.seed"]) == ('"probe"', "1")
    assert json.loads(probe["checkpoint"]) == str(tmp_path / "out" / "arms" / "grid" / "seed1" / "pretrain" / "export")
    assert not (tmp_path / "out" / "arms" / "grid" / "lr" / "0.01" / "export").exists()
    assert reports[-1] == tmp_path / "out"
    # A finished ablation runs nothing; an added seed runs only its own runs, and the statistics of its arm again.
    before = starts(path)
    run(path)
    assert starts(path) == before
    run(path, "ablation.seeds=[0, 1, 2]", "arms.grid=null")
    new = {name for name, number in starts(path).items() if number != before.get(name)}
    assert new == {"learned", *(f"learned/seed2/{name}" for name in RUNS_OF_A_SEED)}


def test_failed_arm_does_not_stop_the_others_and_is_retried(tmp_path: Path) -> None:
    faults = {
        "grid/lr/0.01": {"user_error": "the loss is not finite"},
        "grid/seed0/pretrain": {"user_error": "a shard is damaged"},
        "learned/seed1/nt/H3/probe": {"kill": 99},
    }
    path = write(tmp_path, script={"faults": faults, "steps": 3})
    ablation, printed, record = run(path, "ablation.retries=1")
    assert ablation.failed and not ablation.done
    found = starts(path)
    assert found["learned/seed1/nt/H3/probe"] == 2 and found["grid/seed0/pretrain"] == 1
    assert "grid/seed0/nt/H3/probe" not in found and {"learned", "grid", "grid/seed1/nt/H3/probe"} <= found.keys()
    arm = record["arms"]["grid"]
    assert arm["lr"] == 0.001 and arm["lr_scores"] == {"0.001": 1.3, "0.01": None}
    assert arm["seeds"]["0"] == {"state": "failed", "reason": "a shard is damaged", "mlflow_run": None}
    assert "failed: grid seed 0 pretraining: a shard is damaged; see" in printed
    # The chosen learning rate is kept; failed runs are retried.
    (tmp_path / "out" / "script.yaml").write_text("losses: {grid/lr/0.01: 0.5}\n")
    ablation, _, record = run(path)
    assert ablation.done and record["arms"]["grid"]["lr"] == 0.001
    assert starts(path)["grid/lr/0.01"] == 1 and starts(path)["grid"] == 2


def test_arm_without_a_working_learning_rate_is_incomplete(tmp_path: Path) -> None:
    faults = {f"grid/lr/{lr}": {"user_error": "diverged"} for lr in ("0.001", "0.01")}
    ablation, _, record = run(write(tmp_path, script={"faults": faults}))
    assert not ablation.done and not ablation.failed
    assert record["arms"]["grid"]["seeds"]["0"]["state"] == "waiting" and record["arms"]["grid"]["lr"] is None
    assert record["arms"]["grid"]["failed"] == {"grid lr 0.001": "diverged", "grid lr 0.01": "diverged"}
    assert {seed["state"] for seed in record["arms"]["learned"]["seeds"].values()} == {"finished"}


def test_changes_of_runs_that_have_started_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    run(path, "arms.grid=null", "ablation.seeds=[0]")
    with pytest.raises(UserError, match=r"arms/learned: .*training\.batch: 4 -> 8"):
        run(path, "set.training.batch=8")
    with pytest.raises(UserError, match=r"lr\.steps: 5 -> 6"):
        run(path, "lr.steps=6")
    out = tmp_path / "out"
    saved = (out / "ablation.yaml").read_text()
    with pytest.raises(UserError, match=r"training\.epochs: \d+ -> 3.*ARM/seedN/TASK; pretraining can stay"):
        run(path, "downstream.set.training.epochs=3")
    assert (out / "ablation.yaml").read_text() == saved
    shutil.rmtree(out / "arms" / "learned" / "seed0" / "nt")
    run(path, "arms.grid=null", "ablation.seeds=[0]", "downstream.set.training.epochs=3")
    assert starts(path)["learned/seed0/pretrain"] == 1 and arguments(path, "learned/seed0/nt/H3/probe")


DRIVER = """
import pathlib, sys
from ldarnet.ablation import run
from tests.support import sample_ablation
run.write_report = lambda folder: None
sample_ablation.run(pathlib.Path(sys.argv[1]))
"""


def test_killed_and_interrupted_ablations_resume(run_ranks: Callable[..., Ranks], tmp_path: Path) -> None:
    path = write(tmp_path, script={"steps": 4, "seconds": 0.3})
    (tmp_path / "driver.py").write_text(DRIVER)
    killed = run_ranks(1, path, script=tmp_path / "driver.py", launched=False)
    wait_for_lines(path.parent, 22)
    killed.kill()

    def interrupt() -> None:
        wait_for_lines(path.parent, 40)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    interrupted, printed, _ = run(path)
    assert interrupted.interrupted and not interrupted.done and not interrupted.failed
    assert "stopped by SIGINT" in printed and "run the same command again to resume" in printed
    ablation, _, _ = run(path)
    assert ablation.done
    found = starts(path)
    assert sum(found.values()) <= len(found) + 2 * 2  # two runs were running at each of the two interruptions
    for file in path.parent.rglob("metrics.jsonl"):
        assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3, 4]
