"""The gradient and the step do not depend on how the global batch is dealt to ranks, nor on the ZeRO stage."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ldarnet import LDARNetForMaskedLM
from ldarnet.config import load_config
from ldarnet.data import Masking, ShardSet, Windows, training_steps
from ldarnet.training.optimizer import build_optimizer, parameter_groups
from ldarnet.training.schedule import learning_rate_factor

ONE_STEP = Path(__file__).with_name("one_step.py")
OVERRIDES = ["model.ratio_weight=2.0", "optimizer.clip=0.5", "validation.windows=0"]


def plain_steps(config):
    """Gradients of the first step and weights after two, in plain PyTorch on one process."""
    torch.manual_seed(5)
    model = LDARNetForMaskedLM(config.model.build({}))
    torch.manual_seed(5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    groups = parameter_groups(model, config.optimizer)
    optimizer = build_optimizer(groups, config.optimizer, torch.device("cpu"))
    windows = Windows(ShardSet.open(config.data.shards), "train", config.data.length, seed=config.run.seed)
    steps = training_steps(
        windows,
        Masking(seed=config.run.seed),
        micro_batch=config.training.batch // config.training.accumulation,
        accumulation=config.training.accumulation,
        rank=0,
        world=1,
        first_step=0,
        last_step=2,
    )
    gradients = {}
    for step, batches in enumerate(steps):
        scored = sum(int((batch.labels != -100).sum()) for batch in batches)
        for batch in batches:
            out = model(batch.input_ids, labels=batch.labels)
            share = (batch.labels != -100).sum() / scored
            (out.mlm_loss * share + model.config.ratio_weight * out.ratio_loss / len(batches)).backward()
        if step == 0:
            gradients = {name: copy.deepcopy(parameter.grad) for name, parameter in model.named_parameters()}
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip)
        factor = learning_rate_factor(step, config.training.steps, warmup=0.1, decay=0.2, decay_shape="published")
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        optimizer.step()
        optimizer.zero_grad()
    return gradients, dict(model.named_parameters())


def assert_same_steps(config_file, run_ranks, tmp_path, world, stages):
    config = load_config(config_file, OVERRIDES)
    config.save(config_file)
    run_ranks(world, config_file, tmp_path, stages, script=ONE_STEP).succeed()
    gradients, weights = plain_steps(config)
    for stage in stages:
        tensors = load_file(tmp_path / f"stage{stage}-ranks{world}.safetensors")
        for name, gradient in gradients.items():
            found = tensors[f"gradient.{name}"]
            assert (found - gradient).norm() <= 2e-5 * gradient.norm() + 1e-9, (stage, name)
            # A gradient near AdamW's eps of 1e-8 is little but rounding, of which AdamW makes a whole step.
            firm = gradient.abs() > 1e-7
            assert firm.float().mean() > 0.5, (stage, name)
            assert torch.allclose(tensors[name][firm], weights[name][firm], rtol=1e-4, atol=2e-6), (stage, name)


def test_two_ranks_take_the_step_of_one(config_file, run_ranks, tmp_path):
    assert_same_steps(config_file, run_ranks, tmp_path, 2, "1")


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 4])
def test_all_zero_stages_take_the_same_step(config_file, run_ranks, tmp_path, world):
    assert_same_steps(config_file, run_ranks, tmp_path, world, "0123")
