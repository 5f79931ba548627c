"""Sizes of a model's tensors, for the selection of kernels."""

from __future__ import annotations

from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.layout import layer_letters, mlp_width, stage_stacks
from ldarnet.ops import KernelOptions, Sizes

_LETTERS = {"ssd": "mM", "convolution": "mM", "gated_norm": "mM", "attention": "tT", "rotary": "tT", "swiglu": "MT"}
"""Operation -> layout letters of the layers that contain it."""


def kernel_options(config: LDARNetConfig) -> KernelOptions:
    """Backend overrides of a model, and the sizes for which its kernels are verified."""
    letters = ["".join(map(layer_letters, stacks)) for stacks in stage_stacks(config.arch_layout)]
    stages = [_stage_sizes(config, stage, bool(set(found) & {*"tT"})) for stage, found in enumerate(letters)]
    sizes = {
        operation: tuple(one for one, found in zip(stages, letters, strict=True) if set(found) & {*needed})
        for operation, needed in _LETTERS.items()
    }
    sizes |= {"add_norm": tuple(stages), "dechunk": tuple(stages[:-1]), "router": tuple(stages[:-1])}
    return KernelOptions(config.ops, {operation: found for operation, found in sizes.items() if found})


def unused_operations(config: LDARNetConfig) -> set[str]:
    """Operations that no layer of a model contains, for example `dechunk` in a single stack."""
    return {*_LETTERS, "dechunk", "router"} - kernel_options(config).sizes.keys()


def _stage_sizes(config: LDARNetConfig, stage: int, attends: bool) -> Sizes:
    width, ssm, attention = config.d_model[stage], config.ssm_cfg, config.attn_cfg
    inner = ssm["expand"] * width
    heads, channels = inner // ssm["headdim"], inner + 2 * ssm["d_state"]
    attention_heads = attention["num_heads"][stage] if attends else 1
    return Sizes(
        width=width,
        projection=inner + channels + heads,
        channels=channels,
        taps=ssm["d_conv"],
        inner=inner,
        heads=heads,
        headdim=ssm["headdim"],
        d_state=ssm["d_state"],
        chunk_size=ssm["chunk_size"],
        hidden=mlp_width(config.d_intermediate[stage]),
        attention_heads=attention_heads,
        attention_dim=width // attention_heads,
        rotary=attention["rotary_emb_dim"][stage] if attends else 0,
        window=attention["window_size"][stage] if attends else -1,
        directions=config.directions,
    )
