"""Activation checkpointing does not change results."""

import pytest
import torch
from safetensors.torch import load_file, save_model

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.config import differences, load_config
from tests.support.ranks import WORKERS

ONE_STEP = WORKERS / "one_step.py"


@pytest.mark.parametrize("stages", [[0], [1], [0, 1]])
def test_loss_and_gradients_are_bitwise_equal(stages):
    model = LDARNetForMaskedLM(LDARNetConfig.preset("quickstart"))
    ids = torch.randint(0, 4, (3, 150))
    results = []
    for checkpointed in ([], stages):
        model.set_activation_checkpointing(checkpointed)
        model.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        results.append([loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    assert all(torch.equal(plain, again) for plain, again in zip(*results, strict=True))


def test_resume_with_other_checkpointed_stages_is_allowed(config_file):
    assert (
        differences(load_config(config_file), load_config(config_file, ["training.activation_checkpointing=[0]"])) == []
    )


def test_missing_stage_is_an_error(config_file, run_ranks):
    ((status, output, errors),) = run_ranks(
        1, "--config", config_file, "training.activation_checkpointing=[0,2]"
    ).wait()
    assert status
    assert (
        "training.activation_checkpointing=[0, 2]: this model has no stage 2; choose from stages 0, 1"
        in output + errors
    )


@pytest.mark.slow
def test_zero_stage_3_takes_the_same_step(config_file, run_ranks, tmp_path):
    weights, jobs = tmp_path / "weights.safetensors", []
    torch.manual_seed(5)
    save_model(LDARNetForMaskedLM(load_config(config_file).model.build({})), weights)
    for stages in ("[]", "[0, 1]"):
        folder = tmp_path / f"checkpointed{stages}"
        folder.mkdir()
        config = load_config(config_file, [f"training.activation_checkpointing={stages}", "validation.windows=0"])
        config.save(folder / "config.yaml")
        jobs.append((folder / "config.yaml", weights, folder, "1,3"))
    run_ranks(2, *(":".join(map(str, job)) for job in jobs), script=ONE_STEP).succeed()
    for engine in ("1", "3"):
        plain, again = (load_file(folder / f"{engine}.safetensors") for _, _, folder, _ in jobs)
        assert plain.keys() == again.keys()
        assert all(torch.equal(plain[name], again[name]) for name in plain)
