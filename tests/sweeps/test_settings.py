"""Names of settings, and validation of sweep configurations."""

from pathlib import Path

import pytest

from ldarnet.errors import UserError
from ldarnet.sweeps.folders import Folders
from ldarnet.sweeps.settings import check_sweep, folds_of, grid, setting, trial_config
from ldarnet.sweeps.sweep import plan_of, tasks_of
from tests.support.sample_sweep import load, write

ROOT = Path(__file__).resolve().parents[2]


def test_grid_has_every_combination_once():
    found = grid({"optimizer.lr": [1e-4, 5e-5], "training.batch": [32, 64]})
    assert [one.name for one in found] == [
        "lr=0.0001,batch=32",
        "lr=0.0001,batch=64",
        "lr=5e-05,batch=32",
        "lr=5e-05,batch=64",
    ]
    assert found[2].values == {"optimizer.lr": 5e-5, "training.batch": 32}
    assert [one.name for one in grid({})] == ["as-given"]
    other = grid({"training.batch": [32, 64], "optimizer.lr": [1e-4, 5e-5]})
    assert {one.name for one in other} == {one.name for one in found}


def test_names_use_full_keys_on_conflict_and_are_valid_folder_names():
    assert setting({"a.lr": 1, "b.lr": 2}).name == "a.lr=1,b.lr=2"
    one, other = (setting({"checkpoint": path}) for path in ("runs/a b/x", "runs/a-b/x"))
    assert "/" not in one.name and " " not in one.name and one.name != other.name
    assert len(setting({"checkpoint": "x" * 500}).name) < 200


def test_values_are_parsed_as_in_fine_tuning(tmp_path: Path):
    # YAML parses 1e-4 as a string.
    (tmp_path / "out").mkdir()
    config, _ = check_sweep(load(write(tmp_path), "space.optimizer.lr=[1e-4, 0.001]"), "nt/H3")
    assert config.space == {"optimizer.lr": [0.0001, 0.001]}


def test_tasks_are_names_suites_or_the_task_of_the_base_configuration(tmp_path: Path):
    path = write(tmp_path)
    assert list(tasks_of(load(path))) == ["nt/H3", "nt/H4"]
    assert len(tasks_of(load(path, "sweep.tasks=nt"))) == 18
    assert len(tasks_of(load(path, "sweep.tasks=[gb, H3, nt/H3]"))) == 10
    assert tasks_of(load(path, "sweep.tasks=null")) == {"nt/H3": "H3"}
    assert tasks_of(load(path, "sweep.tasks=null", "set.task=null", "set.data.train=a.csv")) == {"own": None}
    assert tasks_of(load(path, "sweep.tasks=null", "set.task=mine", "set.data.train=a.csv")) == {"own": None}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sweep.tasks=[H33]"], "did you mean"),
        (["space.optimizer.lrr=[1e-4]"], "did you mean optimizer.lr?"),
        (["space.optimizer.lr=[1e-4, 7]"], "at most 1"),
        (["space.optimizer.lr=[1e-4, 0.0001]"], "duplicate value"),
        (["space.folds.seed=[1, 2]"], "cannot be compared"),
        (["space.evaluation.metric=[mcc, f1]"], "cannot be compared"),
        (["space.data.limit=[100, 200]"], "cannot be compared"),
        (["space.optimizer.lr={low: 1e-5, high: 1e-3}"], "search.kind=optuna"),
        (["space.optimizer.lr={low: 1e-3, high: 1e-5}", "search.kind=optuna"], "must be less than"),
        (["space={}", "search.kind=optuna"], "nothing to search"),
        (["set.optimizer.lr=1e-4"], "is in both `space` and `set`"),
        (["search.folds=[5]"], "no fold 5"),
        (["search.asha.grace=1", "set.training.epochs=1"], "never stops a fold"),
        (["search.asha.grace=1", "space.training.epochs=[2, 4]"], "differ in training.epochs"),
        (["search.asha.grace=1", "set.training.mode=probe"], "but training.mode=probe does not train in epochs"),
        (["resources.ranks=2"], "launcher=deepspeed"),
        (["resources.gpus=2"], "ranks=2"),
        (["set.training.bach=3"], "did you mean training.batch?"),
        (["checkpoint=runs/nowhere"], "checkpoint=runs/nowhere: no such file or folder"),
        (["space.checkpoint=[runs/nowhere, null]"], "checkpoint=runs/nowhere: no such file or folder"),
    ],
)
def test_invalid_configuration_is_one_line_error(tmp_path: Path, overrides: list[str], message: str):
    path = write(tmp_path)

    def read() -> None:
        config = load(path, *overrides)
        check_sweep(config, next(iter(tasks_of(config).values())))

    with pytest.raises(UserError) as raised:
        read()
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "trials"), [("nt18", 558), ("gb9", 261), ("nt3-small", 18)])
def test_packaged_sweeps(name: str, trials: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load(ROOT / "configs" / "sweep" / f"{name}.yaml", f"sweep.dir={tmp_path}")
    tasks = tasks_of(config)
    config, base = check_sweep(config, next(iter(tasks.values())))
    assert plan_of(config, base, tasks, Folders(config, base.evaluation.metric)).max_remaining() == trials


def test_task_with_official_validation_rows_has_one_fold(tmp_path):
    base = trial_config(load(write(tmp_path, folds=3)), None, {})
    assert folds_of(base, "gue/prom_core_all") == [0]
    assert folds_of(base, "nt/H3") == [0, 1, 2]


def test_sweep_tasks_override_the_base_configuration(tmp_path):
    config = load(write(tmp_path, set={"task": "H3"}))
    assert trial_config(config, "nt/H4", {}).task == "nt/H4"
