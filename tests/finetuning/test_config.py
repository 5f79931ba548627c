"""Fine-tuning configuration: valid keys, overrides and errors."""

from pathlib import Path

import pytest
import yaml

from ldarnet.config import FinetuneConfig, differences, fixed_keys, load_config
from ldarnet.errors import UserError
from ldarnet.finetuning.arms import arm_of

CONFIGS = Path(__file__).parents[2] / "configs/finetune"


@pytest.fixture
def minimal(tmp_path):
    path = tmp_path / "minimal.yaml"
    path.write_text(yaml.safe_dump({"run": {"dir": "runs/x"}, "task": "H3"}))
    return path


def load(path, *overrides):
    return load_config(path, list(overrides), schema=FinetuneConfig)


def test_top_level_keys_can_be_overridden(minimal):
    config = load(minimal, "task=H4", "checkpoint=runs/some", "training.epochs=3")
    assert (config.task, config.checkpoint, config.training.epochs) == ("H4", Path("runs/some"), 3)
    assert load(minimal, "task=null", "data.train=my.csv").task is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tsk=H4", "write it as section.key=value; did you mean task?"),
        ("lr=1", "write it as section.key=value; did you mean optimizer.lr?"),
        ("training.lr=1", "unknown key training.lr; did you mean optimizer.lr?"),
        ("optimizer.lr=2", "optimizer.lr=2 is out of range: more than 0, at most 1"),
        ("evaluation.leak_free=40", "evaluation.leak_free=40 is out of range: at least 8, at most 32"),
        ("evaluation.metric=kappa", "'kappa' is not a metric; use one of mcc, f1, accuracy, auroc, auprc"),
        ("evaluation.metric=AUROCC", "evaluation.metric: 'AUROCC' is not a metric; did you mean 'auroc'? (mcc, f1, "),
        ("folds.only=[0, 10]", "no fold 10; folds are 0 to 9"),
        ("optimizer.betas=[0.9, 1]", "out of range: less than 1"),
        ("task=null", "set task (such as task=H3), or set data.train to your own file"),
        ("folds=3", "write it as section.key=value; did you mean folds.count?"),
        ("evaluation.folds=2", "unknown key evaluation.folds; did you mean folds.count?"),
    ],
)
def test_invalid_settings_are_rejected(minimal, override, message):
    with pytest.raises(UserError) as error:
        load(minimal, override)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_select_the_arm_and_conflicts_are_rejected(minimal):
    assert load(minimal).arm == "random"
    assert load(minimal, "checkpoint=runs/some").arm == "checkpoint"
    assert load(minimal, "model.baseline=cnn").arm == "cnn"
    assert arm_of(load(minimal, "training.mode=probe")).selection == "penalty"
    for overrides, message in (
        (
            ["model.baseline=cnn", "checkpoint=runs/some"],
            "model.baseline=cnn cannot start from a checkpoint; set checkpoint=null",
        ),
        (
            ["model.baseline=kmers", "training.mode=probe"],
            "training.mode=probe cannot be combined with model.baseline=kmers; remove one of them",
        ),
        (["model.baseline=cnm"], "model.baseline=cnm: no such arm; did you mean 'cnn'? (cnn, kmers)"),
        (["training.mode=frozen"], "training.mode=frozen: no such arm; use one of full, probe"),
    ):
        with pytest.raises(UserError) as error:
            arm_of(load(minimal, *overrides))
        assert message in str(error.value)


def test_differences_list_only_settings_that_affect_the_result(minimal):
    same = (
        "run.dir=y",
        "folds.only=[0]",
        "data.folder=z",
        "evaluation.batch=7",
        "tracking.mlflow=false",
        "ops.ssd=torch",
    )
    assert differences(load(minimal), load(minimal, *same)) == []
    assert differences(load(minimal), load(minimal, "optimizer.lr=1e-3", "task=H4")) == [
        "task: H3 -> H4",
        "optimizer.lr: None -> 0.001",
    ]
    assert {"task", "run.seed", "checkpoint", "optimizer.lr"} < set(fixed_keys(load(minimal)))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path, tmp_path):
    config = load(path)
    config.save(tmp_path / "saved.yaml")
    assert load(tmp_path / "saved.yaml") == config
    assert config.tracking.experiment == "ldarnet-finetuning"


def test_published_protocol_has_the_published_numbers():
    config = load(CONFIGS / "nt-published.yaml")
    assert (config.folds.count, config.folds.seed, config.folds.stratified, config.run.seed) == (10, 42, False, 42)
    assert (config.optimizer.betas, config.optimizer.eps, config.optimizer.weight_decay) == ((0.9, 0.95), 1e-8, 0.1)
    assert (config.optimizer.clip, config.optimizer.decayed) == (1, "published")
    assert (config.schedule.plateau, config.schedule.factor, config.schedule.patience) == ("published", 0.5, 2)
    assert (config.training.epochs, config.training.stop_patience, config.training.ratio_weight) == (100, 5, 0)
    assert (config.evaluation.metric, config.evaluation.strands) == ("mcc", 1)
    ours = load(CONFIGS / "nt.yaml")
    assert (ours.schedule.plateau, ours.optimizer.decayed, ours.training.ratio_weight) == ("rising", "matrices", None)
