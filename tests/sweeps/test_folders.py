"""State of a sweep as read from its folder."""

import json
from contextlib import suppress
from pathlib import Path

import pytest

from ldarnet.errors import UserError
from ldarnet.sweeps.folders import Folders
from ldarnet.sweeps.plan import TaskPlan
from ldarnet.sweeps.settings import grid
from tests.support.damaged import damaged_bytes, damaged_values
from tests.support.sample_sweep import load, write


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"data_fingerprint": "b"}, "fold1/result.json: trained with different data than .*fold0/result.json"),
        ({"checkpoint_sha256": "b"}, "fold1/result.json: trained with different weights of runs/model than"),
    ],
)
def test_folds_of_different_data_or_weights_are_not_mixed(tmp_path: Path, other: dict[str, str], message: str) -> None:
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
    assert folders.fold("nt/H3", "lr=0.001", 0, is_search_fold=True).state == "finished"
    with pytest.raises(UserError, match=message):
        folders.fold("nt/H3", "lr=0.01", 1, is_search_fold=True)


def test_trial_without_summary_is_resumed(tmp_path: Path) -> None:
    folders = Folders(load(write(tmp_path)), "mcc")
    file = folders.result("nt/H3", "lr=0.001", 0)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"valid": {"mcc": 0.5}, "data_fingerprint": "a"}))
    assert folders.fold("nt/H3", "lr=0.001", 0, is_search_fold=True).state == "waiting"


def test_stopped_fold_resumes_outside_the_search(tmp_path: Path) -> None:
    folders = Folders(load(write(tmp_path), "search.asha.grace=1"), "mcc")
    folders.of_fold("nt/H3", "lr=0.001", 0).mkdir(parents=True)
    folders.mark_stopped("nt/H3", "lr=0.001", 0, epoch=1)
    assert folders.fold("nt/H3", "lr=0.001", 0, is_search_fold=True).state == "stopped"
    assert folders.fold("nt/H3", "lr=0.001", 0, is_search_fold=False).state == "waiting"


def test_fold_with_undefined_metric_has_failed(tmp_path: Path) -> None:
    folders = Folders(load(write(tmp_path)), "auroc")
    file = folders.result("nt/H3", "lr=0.001", 0)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"valid": {"auroc": None}, "data_fingerprint": "a"}))
    (file.parents[1] / "summary.json").touch()
    status = folders.fold("nt/H3", "lr=0.001", 0, is_search_fold=True)
    assert status.state == "failed" and "auroc is undefined" in status.reason


def test_weights_are_deleted_only_once_the_task_is_settled(tmp_path: Path) -> None:
    folders = Folders(load(write(tmp_path)), "mcc")
    one, other = grid({"optimizer.lr": [1e-4, 1e-3]})
    weights = [folders.result("nt/H3", setting.name, 0).with_name("best") for setting in (one, other)]
    for folder in weights:
        folder.mkdir(parents=True)
    task = TaskPlan("nt/H3", [one, other], [0], [0])
    task.mark(one, 0, "finished", 0.5)
    task.fail(other, 0, "killed by SIGKILL", permanent=False)
    folders.delete_unneeded(task)
    assert [folder.exists() for folder in weights] == [True, True]
    task.fail(other, 0, "has diverged", permanent=True)
    folders.delete_unneeded(task)
    assert [folder.exists() for folder in weights] == [True, False]
    assert folders.classifier(task) is None
    (folders.of_fold("nt/H3", one.name, 0) / "export").mkdir()
    assert folders.classifier(task) == "fold0"


@pytest.mark.parametrize("name", ["result.json", "metrics.jsonl"])
def test_damaged_files_of_a_trial_are_one_line(tmp_path: Path, name: str) -> None:
    folders = Folders(load(write(tmp_path)), "mcc")
    file = folders.result("nt/H3", "lr=0.001", 0)
    file.parent.mkdir(parents=True)
    content = {"result.json": {"valid": {"mcc": 0.5}, "data_fingerprint": "a"}}
    content["metrics.jsonl"] = {"epoch": 1, "split": "valid", "mcc": 0.5}
    for other, record in content.items():
        file.with_name(other).write_text(json.dumps(record) + "\n")
    (file.parents[1] / "summary.json").touch()
    assert folders.fold("nt/H3", "lr=0.001", 0, is_search_fold=True).state == "finished"
    for kind, damaged in damaged_bytes(json.dumps(content[name]).encode()).items():
        file.with_name(name).write_bytes(damaged + b"\n")
        with pytest.raises(UserError, match=rf"{name}.*damaged.*; delete") as caught:
            folders.fold("nt/H3", "lr=0.001", 0, is_search_fold=True)
        assert str(caught.value).isprintable(), kind
    for what, wrong in damaged_values(content["result.json"]):
        file.with_name("result.json").write_text(json.dumps(wrong))
        with suppress(UserError):
            assert folders.fold("nt/H3", "lr=0.001", 0, is_search_fold=True).state in ("finished", "failed"), what
