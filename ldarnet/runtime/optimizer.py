"""AdamW or Muon with named parameter groups, one per stage and rule."""

import math
from typing import Any

import torch

from ldarnet.config.optimization import AdamWSection, OptimizerSection
from ldarnet.model import LDARNetLanguageModel
from ldarnet.runtime.muon import MATRIX_ROWS, MuonAdamW


def stage_multipliers(rule: str, d_model: list[int], target_ratio: float) -> list[float]:
    """Compute the learning rate multiplier of each stage, outermost first; the last stage, the main network, has 1.

    Stages are numbered from 0, the outermost, to D, the main network. Let d_s be the width of stage s, and N the target
    ratio of every router, in positions per chunk. There are D - s routers between stage s and the main network. The
    multiplier of stage s is sqrt(N^(D-s)) * d_D/d_s for rule `published`, sqrt(N^(D-s) * d_D/d_s) for `hnet`, and 1 for
    `none`.
    """
    last = len(d_model) - 1
    multipliers = []
    for stage, width in enumerate(d_model):
        compression, widening = target_ratio ** (last - stage), d_model[-1] / width
        multipliers.append(
            {
                "published": math.sqrt(compression) * widening,
                "hnet": math.sqrt(compression * widening),
                "none": 1.0,
            }[rule]
        )
    return multipliers


def parameter_groups(model: LDARNetLanguageModel, config: OptimizerSection) -> list[dict]:
    """Create parameter groups, named `stage<index>/<decay|no_decay>`, and `stage<index>/muon` for the matrices of Muon.

    Each group has a `base_lr`, its learning rate before the schedule is applied. The group of a parameter depends only
    on the parameter's name, not on its shape or partitioning.
    """
    stages, undecayed = model.parameter_stage(), model.no_weight_decay()
    matrices = model.matrix_rows() if config.name == "muon" else {}
    shape: Any = model.config
    multipliers = stage_multipliers(config.stage_multiplier, shape.d_model, shape.target_ratio)
    groups: dict[tuple[int, str], dict] = {}
    for name, parameter in model.named_parameters():
        rule = "muon" if name in matrices else "no_decay" if name in undecayed else "decay"
        stage = stages[name]
        lr = config.lr * multipliers[stage]
        group = groups.setdefault(
            (stage, rule),
            {
                "params": [],
                "name": f"stage{stage}/{rule}",
                "lr": lr,
                "base_lr": lr,
                "weight_decay": 0.0 if rule == "no_decay" else config.weight_decay,
            },
        )
        group["params"].append(parameter)
        if rule == "muon":
            group.setdefault(MATRIX_ROWS, []).append(matrices[name])
    return [groups[key] for key in sorted(groups)]


def build_optimizer(groups: list[dict], config: AdamWSection) -> torch.optim.AdamW | MuonAdamW:
    """Create a fused AdamW optimizer, or Muon with AdamW if a group is one of Muon.

    Both skip the step on the device if `found_inf` is 1.
    """
    if any(MATRIX_ROWS in group for group in groups):
        return MuonAdamW(groups, config)
    return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True)
