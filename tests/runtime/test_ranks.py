"""Losses, gradients and steps do not depend on how the global batch is dealt to ranks, nor on the engine."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_model

from ldarnet import LDARNetForMaskedLM
from ldarnet.config import load_config
from ldarnet.data import Masking, ShardSet, Windows, training_steps
from ldarnet.pretraining.schedule import learning_rate_factor
from ldarnet.runtime.optimizer import build_optimizer, parameter_groups
from tests.support.ranks import WORKERS

ONE_STEP = WORKERS / "one_step.py"
ENGINES = ["0", "1", "2", "3", "1-offload", "2-offload", "3-offload"]
OVERRIDES = ["model.ratio_weight=2.0", "optimizer.clip=0.5", "validation.windows=0"]
TWO_STAGES = [
    "model.arch_layout=[m1, [m1, [M1], m1], m1]",
    "model.d_model=[16, 16, 24]",
    "model.d_intermediate=[0, 0, 32]",
    "model.attn_cfg={num_heads: [2, 2, 2], rotary_emb_dim: [8, 8, 8], window_size: [7, 7, -1]}",
]


def first_weights(config, collapsing=False):
    """A model with weights of a size; fresh ones are too regular for a test: several are zero.

    Args:
        config: of the run.
        collapsing: wherever all bases of a window are the same, it is one chunk.
    """
    model = LDARNetForMaskedLM(config.model.build({}))
    torch.manual_seed(5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if collapsing:
        with torch.no_grad():
            model.model.backbone.encoder.layers[0].mixer.out_proj.weight.zero_()
            model.model.backbone.router.k_proj.weight.copy_(model.model.backbone.router.q_proj.weight)
    return model


def plain_steps(config, model):
    """Gradients of the first step, losses of two and weights after them, in plain PyTorch on one process."""
    groups = parameter_groups(model, config.optimizer)
    optimizer = build_optimizer(groups, config.optimizer)
    windows = Windows(
        ShardSet.open(config.data.shards),
        "train",
        config.data.length,
        seed=config.run.seed,
        max_n_run=config.data.max_n_run,
    )
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
    gradients, losses = {}, []
    for step, batches in enumerate(steps):
        scored = sum(int((batch.labels != -100).sum()) for batch in batches)
        loss = torch.zeros(2)
        for batch in batches:
            out = model(batch.input_ids, labels=batch.labels)
            share = (batch.labels != -100).sum() / scored
            parts = torch.stack([out.mlm_loss * share, out.ratio_loss / len(batches)])
            (parts[0] + model.config.ratio_weight * parts[1]).backward()
            loss += parts.detach()
        losses.append(loss)
        if step == 0:
            gradients = {name: copy.deepcopy(parameter.grad) for name, parameter in model.named_parameters()}
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip)
        factor = learning_rate_factor(step, config.training.steps, warmup=0.1, decay=0.2, decay_shape="published")
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        optimizer.step()
        optimizer.zero_grad()
    return gradients, losses, dict(model.named_parameters())


class Case:
    """A configuration, the weights to begin with, and the engines to compare with plain PyTorch.

    Args:
        config_file: of the run, with `overrides`.
        folder: to write to.
        engines: such as `2` or `2-offload`, by ZeRO stage.
        overrides: of the configuration.
        collapsing: whether windows of one base are one chunk.
    """

    def __init__(self, config_file, folder, engines, overrides=(), collapsing=False):
        folder.mkdir()
        self.config = load_config(config_file, [*OVERRIDES, *overrides])
        self.config.save(folder / "config.yaml")
        self.model = first_weights(self.config, collapsing)
        save_model(self.model, str(folder / "first.safetensors"))
        self.folder, self.engines, self.collapsing = folder, engines, collapsing

    def __str__(self):
        """The job for the ranks."""
        return f"{self.folder}/config.yaml:{self.folder}/first.safetensors:{self.folder}:{','.join(self.engines)}"

    def check(self):
        """That all engines did what plain PyTorch does."""
        gradients, losses, weights = plain_steps(self.config, self.model)
        for engine in self.engines:
            tensors = load_file(self.folder / f"{engine}.safetensors")
            for step, loss in enumerate(losses):
                assert tensors[f"loss.{step}"].tolist() == pytest.approx(loss.tolist(), rel=1e-5), engine
            for name, gradient in gradients.items():
                found = tensors[f"gradient.{name}"]
                assert (found - gradient).norm() <= 2e-5 * gradient.norm() + 1e-9, (engine, name)
                # A gradient near AdamW's eps of 1e-8 is little but rounding, of which AdamW makes a whole step.
                firm = gradient.abs() > 1e-7
                assert self.collapsing or firm.float().mean() > 0.5, (engine, name)
                assert torch.allclose(tensors[name][firm], weights[name][firm], rtol=1e-4, atol=2e-6), (engine, name)

    def one_chunk_ranks(self, world):
        """Whether a rank had one chunk a window in both stages, (ranks, micro-steps)."""
        chunks = load_file(self.folder / f"{self.engines[0]}.safetensors")["chunks"]
        return (chunks == self.config.training.batch // self.config.training.accumulation // world).all(2)


def test_two_ranks_take_the_step_of_one(config_file, run_ranks, tmp_path):
    case = Case(config_file, tmp_path / "tiny", ["1"])
    run_ranks(2, case, script=ONE_STEP).succeed()
    case.check()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "engines", "collapsing_engines"),
    [(1, ENGINES, ["0"]), (2, ENGINES, ["0", "1", "2", "3"]), (4, ["0", "1", "2", "3-offload"], ["3", "1-offload"])],
)
def test_all_engines_take_the_same_step(
    config_file, run_ranks, shards_of, tmp_path, world, engines, collapsing_engines
):
    """With one stage of chunks; and with two, where half of all windows are N from end to end: one chunk in each."""
    bases = np.frombuffer(b"ACGT", dtype=np.uint8)[np.random.default_rng(2).integers(0, 4, (40, 256))]
    stretches = "".join(row.tobytes().decode() + "N" * 256 for row in bases)
    folder = shards_of(f">first\n{stretches}\n>second\n{stretches[:2000]}\n")
    tiny = Case(config_file, tmp_path / "tiny", engines)
    overrides = [*TWO_STAGES, "data.max_n_run=100000", f"data.shards={folder}"]
    collapsing = Case(config_file, tmp_path / "collapsing", collapsing_engines, overrides, collapsing=True)
    run_ranks(world, tiny, collapsing, script=ONE_STEP).succeed()
    tiny.check()
    collapsing.check()
    if world > 1:
        fewest = collapsing.one_chunk_ranks(world)
        assert (fewest.any(0) & ~fewest.all(0)).any(), "in no micro-step one rank alone has the fewest chunks"
