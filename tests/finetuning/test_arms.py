"""Networks and arms of fine-tuning: initial weights, weight decay, baselines and the linear probe."""

import json
import shutil
import time

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ldarnet import LDARNetConfig, LDARNetForMaskedLM, LDARNetForSequenceClassification
from ldarnet.errors import UserError
from ldarnet.finetuning.classifier import build_classifier, parameter_groups
from ldarnet.model import load_backbone, write_model
from ldarnet.model.folder import window_length
from ldarnet.model.published import published_names
from tests.support.planted import lines, predictions, read_config, result, run, write_config


def test_sequences_longer_than_the_pretraining_windows_are_noted(world, pretrained, tmp_path, capsys):
    run(world, write_config(tmp_path), f"checkpoint={pretrained}", "folds.only=[0]", "training.epochs=1")
    assert "136 of 136 sequences are longer than the pretraining windows of 40 bases" in capsys.readouterr().out
    left = result(tmp_path / "run")
    assert left["arm"] == "checkpoint"
    assert left["checkpoint"] == str(pretrained)
    assert len(left["checkpoint_sha256"]) == 64


def test_other_weights_in_the_same_checkpoint_are_refused(world, pretrained, tmp_path):
    path, place = write_config(tmp_path), shutil.copytree(pretrained, tmp_path / "pretrained")
    run(world, path, f"checkpoint={place}", "folds.only=[0]", "training.epochs=1")
    shutil.rmtree(place / "export")
    write_model(LDARNetForMaskedLM(LDARNetConfig.preset("tiny")), place / "export")
    with pytest.raises(UserError, match="different weights in the checkpoint"):
        run(world, path, f"checkpoint={place}", "folds.only=[1]", "training.epochs=1")


def test_decay_rules(tmp_path):
    path = write_config(tmp_path)
    network = build_classifier(read_config(path), ["no", "yes"], longest=40)

    def undecayed(rule):
        groups = parameter_groups(network, read_config(path, f"optimizer.decayed={rule}"))
        kept = {id(one) for group in groups if group["weight_decay"] == 0 for one in group["params"]}
        assert {group["lr"] for group in groups} == {1e-2}
        return {name for name, parameter in network.named_parameters() if id(parameter) in kept}

    # As in the released code, which names these parameters differently.
    theirs = set()
    for name, _ in network.named_parameters():
        module = network.get_submodule(name.partition(".mixer.")[0] + ".mixer") if ".mixer." in name else None
        (published, *_) = published_names(name, bimamba=hasattr(module, "A_log"))
        if published.endswith(".bias") or "norm" in published or "ln" in published:
            theirs.add(name)
    assert undecayed("published") == theirs
    assert undecayed("matrices") > theirs
    assert {name.rpartition(".")[2] for name in undecayed("matrices") - theirs} == {"A_log", "D", "dt_bias"}


@pytest.mark.parametrize("arm", ["cnn", "kmers"])
def test_baselines_write_the_same_files(world, tmp_path, arm):
    folder = run(world, write_config(tmp_path), f"model.baseline={arm}", "training.epochs=1", "folds.only=[0]")
    left = result(folder)
    assert left["arm"] == arm
    assert len(predictions(folder)) == 40
    assert lines(folder)[-1]["epoch"] == 1
    assert json.loads((folder / "summary.json").read_text())["arm"] == arm
    assert not (folder / "export").exists()


def test_the_probe_finds_the_motif_on_a_frozen_network(world, pretrained, tmp_path):
    probe = {"mode": "probe", "timeout_minutes": 2}
    path = write_config(tmp_path, checkpoint=str(pretrained / "export"), training=probe)
    left = result(run(world, path))
    assert left["mode"] == "probe"
    assert left["test"]["mcc"] > 0.6
    (line,) = lines(tmp_path / "run")
    assert line["epoch"] == left["best_epoch"] == 1
    frozen = load_backbone(pretrained).state_dict()
    kept = LDARNetForSequenceClassification.from_pretrained(tmp_path / "run/fold0/best").model.state_dict()
    assert all(torch.equal(frozen[name], kept[name]) for name in frozen)


@pytest.mark.parametrize(
    ("arm", "overrides"), [("kmers", ["model.baseline=kmers"]), ("probe", ["training.mode=probe"])]
)
def test_a_sequence_of_fits_does_not_trigger_the_watchdog(world, tmp_path, monkeypatch, arm, overrides):
    """Each fit is shorter than the timeout, all fits together are longer."""
    fit = LogisticRegression.fit

    def slow(*arguments, **options):
        time.sleep(1.5)
        return fit(*arguments, **options)

    monkeypatch.setattr(LogisticRegression, "fit", slow)
    path = write_config(tmp_path, training={"timeout_minutes": 5 / 60})
    assert result(run(world, path, "folds.only=[0]", *overrides))["fold"] == 0


def test_other_files_beside_a_checkpoint_are_ignored(tmp_path):
    write_model(LDARNetForMaskedLM(LDARNetConfig.preset("tiny")), tmp_path / "model")
    for text in ("data: /somewhere", "", "- a list", "a: [", "data: {length: 100}"):
        (tmp_path / "config.yaml").write_text(text)
        assert window_length(tmp_path / "model") == (100 if "100" in text else None)
