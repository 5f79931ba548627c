"""User-provided data: validation rows, and the names of tasks."""

import json
import shutil
from pathlib import Path

import pytest

from ldarnet.errors import UserError
from ldarnet.runtime.distributed import World
from ldarnet.tasks import open_task
from ldarnet.tasks.dataset import own_name
from tests.support.planted import predictions, result, run, write_config, write_rows

QUICK = ("model.baseline=kmers",)


def test_validation_rows_replace_the_folds(world: World, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    valid = write_rows(tmp_path / "valid.csv", 24, seed=3)
    folder = run(world, path, *QUICK, f"data.valid={valid}", "data.test=null", "folds.only=null")
    left = result(folder)
    assert left["rows"] == {"train": 96, "valid": 24, "test": 0, "test_leak_free": None}
    assert left["folds"] == 1
    assert [row["name"] for row in predictions(folder)] == [f"row3-{row}" for row in range(24)]
    assert "validated on the 24 rows of data.valid, so there is only one fold" in left["notes"]
    assert set(left["intervals"]) >= {"auroc", "auprc"}
    low, high = left["intervals"]["mcc"]
    assert low <= left["valid"]["mcc"] <= high
    text = (folder / "summary.txt").read_text()
    assert f"95% interval over valid rows (bootstrap): MCC {low:.4f} to {high:.4f}, F1" in text
    with pytest.raises(UserError, match=r"folds\.only=\[2\]: .* has its own validation rows and therefore only fold 0"):
        run(world, path, *QUICK, f"data.valid={valid}", "folds.only=[2]", f"run.dir={tmp_path / 'other'}")


def test_validation_rows_are_checked_and_identify_the_run(world: World, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    valid = write_rows(tmp_path / "valid.csv", 24, seed=3)
    run(world, path, *QUICK, f"data.valid={valid}", "folds.only=null")
    write_rows(valid, 24, seed=4)
    with pytest.raises(UserError, match="different rows of the task"):
        run(world, path, *QUICK, f"data.valid={valid}", "folds.only=null")
    write_rows(valid, 24, seed=4, classes=("no", "perhaps"))
    with pytest.raises(UserError, match=r"valid\.csv: line 3: unknown label 'perhaps'"):
        open_task(None, train=tmp_path / "train.csv", valid=valid)
    with pytest.raises(UserError, match=r"data\.valid=\S+valid\.csv: data\.train is not set"):
        open_task("H3", valid=valid)


def test_test_rows_that_overlap_validation_rows_are_not_leak_free(world: World, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    folder = run(world, path, *QUICK, f"data.valid={tmp_path / 'test.csv'}", "folds.only=null")
    assert result(folder)["rows"]["test_leak_free"] == 0


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("enhancers/train.csv", "enhancers"),
        ("enhancers/Training.tsv.gz", "enhancers"),
        ("enhancers/dataset.fa", "enhancers"),
        ("enhancers/mine.csv", "mine"),
        ("enhancers/train_5k.csv", "train_5k"),
        ("/train.csv", "train"),
    ],
)
def test_names_of_own_tasks(path: str, name: str) -> None:
    assert own_name(Path(path)) == name


def test_a_run_keeps_its_name_when_its_data_moves(world: World, tmp_path: Path) -> None:
    path = write_config(tmp_path / "enhancers")
    folder = run(world, path, *QUICK, "folds.only=[0]")
    shutil.move(tmp_path / "enhancers/train.csv", tmp_path / "train.csv")
    run(world, path, *QUICK, "folds.only=[1]", f"data.train={tmp_path / 'train.csv'}")
    assert [result(folder, fold)["task"] for fold in (0, 1)] == ["enhancers", "enhancers"]
    assert json.loads((folder / "data.json").read_text())["task"] == "enhancers"
    named = run(world, path, *QUICK, f"data.train={tmp_path / 'train.csv'}", "task=mine", f"run.dir={tmp_path / 'b'}")
    assert result(named)["task"] == "mine"
