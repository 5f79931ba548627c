"""AdamW with named parameter groups, one per stage and weight-decay rule."""

import math
from typing import Any

import torch

from ldarnet.config.schema import AdamWSection, OptimizerSection
from ldarnet.model import LDARNetForMaskedLM


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


def parameter_groups(model: LDARNetForMaskedLM, config: OptimizerSection) -> list[dict]:
    """Create parameter groups for torch.optim.AdamW, named `stage<index>/<decay|no_decay>`.

    Each group has a `base_lr`, its learning rate before the schedule is applied. The group of a parameter depends only
    on the parameter's name, not on its shape or partitioning.
    """
    stages, undecayed = model.parameter_stage(), model.no_weight_decay()
    shape: Any = model.config
    multipliers = stage_multipliers(config.stage_multiplier, shape.d_model, shape.target_ratio)
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in model.named_parameters():
        stage, decays = stages[name], name not in undecayed
        lr = config.lr * multipliers[stage]
        group = groups.setdefault(
            (stage, not decays),
            {
                "params": [],
                "name": f"stage{stage}/{'decay' if decays else 'no_decay'}",
                "lr": lr,
                "base_lr": lr,
                "weight_decay": config.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def build_optimizer(groups: list[dict], config: AdamWSection) -> torch.optim.AdamW:
    """Create a fused AdamW optimizer, whose kernel skips the step on the device if `found_inf` is 1."""
    return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True)
