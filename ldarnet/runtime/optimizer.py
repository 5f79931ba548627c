"""AdamW in named groups: one per stage of the hierarchy and weight-decay rule."""

import math
from typing import Any

import torch

from ldarnet.config.schema import AdamWSection, OptimizerSection
from ldarnet.model import LDARNetForMaskedLM


def stage_multipliers(rule: str, d_model: list[int], target_ratio: float) -> list[float]:
    """The learning-rate multiplier of each stage, outermost first; the main network (the last) has 1.

    With width d_s at stage s, width d_D in the main network at depth D and N bases per chunk at each of the D - s
    chunkings between them, `published` is sqrt(N^(D-s)) * d_D/d_s and `hnet` is sqrt(N^(D-s) * d_D/d_s).
    """
    depth = len(d_model) - 1
    multipliers = []
    for stage, width in enumerate(d_model):
        compression, widening = target_ratio ** (depth - stage), d_model[-1] / width
        multipliers.append(
            {
                "published": math.sqrt(compression) * widening,
                "hnet": math.sqrt(compression * widening),
                "none": 1.0,
            }[rule]
        )
    return multipliers


def parameter_groups(model: LDARNetForMaskedLM, config: OptimizerSection) -> list[dict]:
    """Groups for torch.optim.AdamW named `stage<depth>/<decay|no_decay>`, with `base_lr` beside `lr`.

    A parameter's group depends on its name
    only, never on its shape or on how it is partitioned.
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
    """AdamW over the groups, in its fused form: that one leaves a step out on the device, where `found_inf` is 1."""
    return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True)
