"""What earlier starts have left in the folder of a sweep."""

import json
from pathlib import Path

import pytest

from ldarnet.errors import UserError
from ldarnet.sweeps.folders import Folders
from ldarnet.sweeps.plan import TaskPlan
from ldarnet.sweeps.settings import grid
from tests.support.sample_sweep import load, write


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"data_fingerprint": "b"}, "fold1/result.json was trained on other data than .*fold0/result.json"),
        ({"checkpoint_sha256": "b"}, "fold1/result.json was trained from other weights of runs/model than"),
    ],
)
def test_folds_of_other_data_or_weights_are_not_mixed(tmp_path: Path, other: dict[str, str], message: str) -> None:
    folders = Folders(load(write(tmp_path)), "mcc")
    for lr, fold in ((0.001, 0), (0.01, 1)):
        file = folders.result("nt/H3", f"lr={lr}", fold)
        file.parent.mkdir(parents=True)
        result = {
            "valid": {"mcc": 0.5},
            "data_fingerprint": "a",
            "checkpoint": "runs/model",
            "checkpoint_sha256": "a",
        }
        file.write_text(json.dumps(result | (other if fold else {})))
        (file.parents[1] / "summary.json").touch()
    assert folders.fold("nt/H3", "lr=0.001", 0, rivals=True).state == "finished"
    with pytest.raises(UserError, match=message):
        folders.fold("nt/H3", "lr=0.01", 1, rivals=True)


def test_a_trial_that_was_killed_before_it_left_everything_goes_on(tmp_path: Path) -> None:
    folders = Folders(load(write(tmp_path)), "mcc")
    file = folders.result("nt/H3", "lr=0.001", 0)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"valid": {"mcc": 0.5}, "data_fingerprint": "a"}))
    assert folders.fold("nt/H3", "lr=0.001", 0, rivals=True).state == "waiting"


def test_a_fold_that_was_stopped_goes_on_when_it_is_no_longer_compared(tmp_path: Path) -> None:
    folders = Folders(load(write(tmp_path), "search.asha.grace=1"), "mcc")
    folders.of_fold("nt/H3", "lr=0.001", 0).mkdir(parents=True)
    folders.stop("nt/H3", "lr=0.001", 0, epoch=1)
    assert folders.fold("nt/H3", "lr=0.001", 0, rivals=True).state == "stopped"
    assert folders.fold("nt/H3", "lr=0.001", 0, rivals=False).state == "waiting"


def test_a_fold_without_a_score_does_not_hold_up_the_choice(tmp_path: Path) -> None:
    folders = Folders(load(write(tmp_path)), "auroc")
    file = folders.result("nt/H3", "lr=0.001", 0)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"valid": {"auroc": None}, "data_fingerprint": "a"}))
    (file.parents[1] / "summary.json").touch()
    cell = folders.fold("nt/H3", "lr=0.001", 0, rivals=True)
    assert cell.state == "failed" and "auroc is not defined" in cell.reason


def test_weights_go_only_when_no_other_start_could_need_them(tmp_path: Path) -> None:
    folders = Folders(load(write(tmp_path)), "mcc")
    one, other = grid({"optimizer.lr": [1e-4, 1e-3]})
    weights = [folders.result("nt/H3", setting.name, 0).with_name("best") for setting in (one, other)]
    for folder in weights:
        folder.mkdir(parents=True)
    task = TaskPlan("nt/H3", [one, other], [0], [0])
    task.mark(one, 0, "finished", 0.5)
    task.fail(other, 0, "killed by SIGKILL", lasting=False)
    folders.tidy(task)
    assert [folder.exists() for folder in weights] == [True, True]
    task.fail(other, 0, "has diverged", lasting=True)
    folders.tidy(task)
    assert [folder.exists() for folder in weights] == [True, False]
    assert folders.classifier(task) is None
    (folders.of_fold("nt/H3", one.name, 0) / "export").mkdir()
    assert folders.classifier(task) == "fold0"
