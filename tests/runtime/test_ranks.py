"""Losses, gradients and steps are independent of the number of ranks and of the engine."""

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
from tests.support.plain_muon import PlainMuon
from tests.support.ranks import WORKERS

ONE_STEP = WORKERS / "one_step.py"
ENGINES = ["0", "1", "2", "3", "1-offload", "2-offload", "3-offload"]
OVERRIDES = ["model.ratio_weight=2.0", "optimizer.clip=0.5", "validation.windows=0"]
MUON = ["optimizer.name=muon"]
TWO_STAGES = [
    "model.arch_layout=[m1, [m1, [M1], m1], m1]",
    "model.d_model=[16, 16, 24]",
    "model.d_intermediate=[0, 0, 32]",
    "model.attn_cfg={num_heads: [2, 2, 2], rotary_emb_dim: [8, 8, 8], window_size: [7, 7, -1]}",
]


def initial_model(config, collapsing=False):
    """Model with normally distributed weights; several of the default initial weights are zero.

    Args:
        collapsing: whether every window of one repeated base is a single chunk.
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


def reference_steps(config, model):
    """Gradients of step 1, losses of all steps and the resulting weights, in plain PyTorch in one process."""
    groups = parameter_groups(model, config.optimizer)
    plain = PlainMuon if config.optimizer.name == "muon" else build_optimizer
    optimizer = plain(groups, config.optimizer)
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
            out = model(batch.input_ids.long(), labels=batch.labels.long())
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
    """Configuration, initial weights, and the engines to compare with plain PyTorch.

    Args:
        folder: output folder of the ranks; must not exist.
        engines: ZeRO stages, such as `2` or `2-offload`.
        collapsing: whether every window of one repeated base is a single chunk.
    """

    def __init__(self, config_file, folder, engines, overrides=(), collapsing=False):
        folder.mkdir()
        self.config = load_config(config_file, [*OVERRIDES, *overrides])
        self.config.save(folder / "config.yaml")
        self.model = initial_model(self.config, collapsing)
        save_model(self.model, str(folder / "first.safetensors"))
        self.folder, self.engines, self.collapsing = folder, engines, collapsing

    def __str__(self):
        """Command-line argument of `one_step.py`."""
        return f"{self.folder}/config.yaml:{self.folder}/first.safetensors:{self.folder}:{','.join(self.engines)}"

    def check(self):
        """Compare the results of all engines with plain PyTorch."""
        gradients, losses, weights = reference_steps(self.config, self.model)
        first = load_file(self.folder / "first.safetensors")
        matrices = self.model.matrix_rows() if self.config.optimizer.name == "muon" else {}
        for engine in self.engines:
            tensors = load_file(self.folder / f"{engine}.safetensors")
            for step, loss in enumerate(losses):
                assert tensors[f"loss.{step}"].tolist() == pytest.approx(loss.tolist(), rel=1e-5), engine
            for name, gradient in gradients.items():
                found = tensors[f"gradient.{name}"]
                assert (found - gradient).norm() <= 2e-5 * gradient.norm() + 1e-9, (engine, name)
                if name in matrices:  # the orthogonalization is in bf16
                    moved = weights[name] - first[name]
                    assert (tensors[name] - weights[name]).norm() < 0.03 * moved.norm(), (engine, name)
                    continue
                # Gradients near AdamW's eps (1e-8) are mostly rounding error, which AdamW scales to a full step.
                significant = gradient.abs() > 1e-7
                assert self.collapsing or significant.float().mean() > 0.5, (engine, name)
                assert torch.allclose(tensors[name][significant], weights[name][significant], rtol=1e-4, atol=2e-6), (
                    engine,
                    name,
                )

    def one_chunk_ranks(self, world):
        """Whether all windows were single chunks in both stages: (ranks, micro-steps), bool."""
        chunks = load_file(self.folder / f"{self.engines[0]}.safetensors")["chunks"]
        return (chunks == self.config.training.batch // self.config.training.accumulation // world).all(2)


def test_two_ranks_match_plain_pytorch(config_file, run_ranks, tmp_path):
    case = Case(config_file, tmp_path / "tiny", ["1"])
    muon = Case(config_file, tmp_path / "muon", ["1", "3"], MUON)
    run_ranks(2, case, muon, script=ONE_STEP).succeed()
    case.check()
    muon.check()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "engines", "collapsing_engines"),
    [(1, ENGINES, ["0"]), (2, ENGINES, ["0", "1", "2", "3"]), (4, ["0", "1", "2", "3-offload"], ["3", "1-offload"])],
)
def test_all_engines_match_plain_pytorch(
    config_file, run_ranks, shards_of, tmp_path, world, engines, collapsing_engines
):
    """Test one router, and two routers on data in which half of all windows are all N, each a single chunk."""
    bases = np.frombuffer(b"ACGT", dtype=np.uint8)[np.random.default_rng(2).integers(0, 4, (40, 256))]
    sequence = "".join(row.tobytes().decode() + "N" * 256 for row in bases)
    folder = shards_of(f">first\n{sequence}\n>second\n{sequence[:2000]}\n")
    tiny = Case(config_file, tmp_path / "tiny", engines)
    overrides = [*TWO_STAGES, "data.max_n_run=100000", f"data.shards={folder}"]
    collapsing = Case(config_file, tmp_path / "collapsing", collapsing_engines, overrides, collapsing=True)
    muon = Case(config_file, tmp_path / "muon", engines, MUON)
    run_ranks(world, tiny, collapsing, muon, script=ONE_STEP).succeed()
    tiny.check()
    muon.check()
    collapsing.check()
    if world > 1:
        single = collapsing.one_chunk_ranks(world)
        assert (single.any(0) & ~single.all(0)).any(), (
            "no micro-step in which only some ranks have a single chunk per window"
        )
