"""Arms and results file of the fine-tuning benchmark."""

import json
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from benchmarks.finetuning import (
    CNN,
    FROZEN,
    FROZEN_RANDOM,
    KMERS,
    PRETRAINED,
    RANDOM,
    ArmRuns,
    _bases_seen,
    main,
    report,
)
from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.config import flatten
from ldarnet.errors import UserError
from ldarnet.model import write_model
from ldarnet.runtime.checkpoint import TrainingState
from tests.support.made_results import make_run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    write_model(LDARNetForMaskedLM(LDARNetConfig.preset("tiny", ratio_weight=0.07)), folder)
    return folder


def test_arms_differ_only_in_the_model(checkpoint: Path, tmp_path: Path) -> None:
    plan = ArmRuns(checkpoint, ["nt/H3"], tmp_path, ["folds.only=[0]", "training.epochs=3"])
    configs = {arm: plan.config(arm, "nt/H3") for arm in plan.arms}
    assert {arm: config.arm for arm, config in configs.items()} == {
        PRETRAINED: "checkpoint",
        RANDOM: "random",
        FROZEN: "checkpoint",
        FROZEN_RANDOM: "random",
        CNN: "cnn",
        KMERS: "kmers",
    }
    first = flatten(configs[PRETRAINED])
    for arm, config in configs.items():
        assert config.training.epochs == (30 if arm == CNN else 3) and config.folds.only == [0]
        assert config.training.mode == ("probe" if arm in (FROZEN, FROZEN_RANDOM) else "full")
        other = {key for key, value in flatten(config).items() if value != first.get(key)}
        allowed = {"model", "checkpoint", "run", "optimizer"}
        assert {key.partition(".")[0] for key in other - {"training.epochs", "training.mode"}} <= allowed
    assert configs[CNN].optimizer.lr == 1e-3 and configs[RANDOM].optimizer.lr is None
    shape, expected = configs[RANDOM].model.build({}), LDARNetConfig.preset("tiny", ratio_weight=0.07)
    assert shape.to_dict() == expected.to_dict()


def test_results_file_has_all_arms_and_a_figure(checkpoint: Path, tmp_path: Path) -> None:
    plan = ArmRuns(checkpoint, ["nt/H3", "nt/H4"], tmp_path / "runs", [])
    for number, arm in enumerate(plan.arms):
        for task in plan.tasks:
            make_run(plan.run_dir(arm, task), task, [0.5 + 0.1 * number, 0.51 + 0.1 * number])
            record = {"fingerprint": "f" * 64, "notes": [f"a note on {task}"]}
            (plan.run_dir(arm, task) / "data.json").write_text(json.dumps(record))
    file = tmp_path / "results.md"
    text = report(plan, file, Namespace(name="try", note="what to know", command="the command"))
    assert f"({file.stem}.png)" in text and file.with_suffix(".png").is_file()
    assert all(f"**{arm}**" in text for arm in plan.arms)
    assert "a note on nt/H4" in text and "20,900 parameters" in text
    assert "> **Missing folds.** Every arm has finished 2 of 10 folds on every task." in text
    assert str(tmp_path) not in text


def test_bases_seen_are_those_of_the_best_checkpoint(tmp_path: Path) -> None:
    best = tmp_path / "checkpoints" / "step-00000010"
    best.mkdir(parents=True)
    (best.parent / "pointers.json").write_text(json.dumps({"best": best.name}))
    lines = [{"split": "train", "step": step, "bases": 1000 * step} for step in (5, 10, 20)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert _bases_seen(tmp_path) is None
    state = TrainingState(step=10, total_steps=20, position=80, seed=0, fingerprint="")
    (best / "state.json").write_text(json.dumps(asdict(state)))
    assert _bases_seen(tmp_path) == 10_000


def test_invalid_arguments_are_rejected_before_anything_runs(checkpoint: Path, tmp_path: Path) -> None:
    words = ["--name", "x", "--checkpoint", str(checkpoint), "--tasks", "nt/H3", "--out", str(tmp_path)]
    with pytest.raises(UserError, match="--epochs: neither an option"):
        main([*words, "--epochs", "3"])
    with pytest.raises(UserError, match="no published task of that name"):
        main([word.replace("nt/H3", "nt/H33") for word in words])
