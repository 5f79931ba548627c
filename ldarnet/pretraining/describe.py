"""The lines printed at launch: model, data, engine, kernels, cost and length of the run."""

from typing import Any

import torch

from ldarnet.config import RunConfig
from ldarnet.console import format_si
from ldarnet.model.cost import cost
from ldarnet.pretraining.setup import Inputs
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import autocast, micro_batch

MAX_SOURCES = 8
"""Species of a mixture that are listed."""


def describe(config: RunConfig, inputs: Inputs, world: World) -> list[str]:
    """The lines printed at the start of a run."""
    model: Any = inputs.model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    training, length, data = config.training, config.data.length, inputs.shards
    users = {name: [op for op, chosen in inputs.kernels.items() if chosen == name] for name in inputs.kernels.values()}
    kernels = "; ".join(f"{name}: {', '.join(operations)}" for name, operations in users.items())
    precision = "bf16 autocast, fp32 weights" if autocast(training.precision, world) else "fp32"
    stretches, bases = inputs.windows.skipped
    left_out = f"; {stretches:,} stretches of {bases:,} bases are too short for one" if stretches else ""
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "CPU"
    offload = " with the optimiser on the CPU" if training.offload else ""
    return [
        f"model    {config.model.preset}, {parameters:,} parameters, layout {model.config.arch_layout}",
        f"data     {config.data.shards} (fingerprint {data.fingerprint[:12]}), {len(inputs.windows):,} training "
        f"windows of {length:,} bases an epoch{left_out}",
        *_describe_mixture(inputs),
        *_describe_curriculum(config, inputs),
        f"engine   {world.size} x {device}, ZeRO stage {training.zero_stage}{offload}, {precision}; {training.batch} "
        f"windows ({training.batch * length:,} bases) a step in {training.accumulation} micro-step(s)",
        f"kernels  {kernels}",
        _describe_cost(config, inputs, world),
        f"run      {config.run.dir}, {inputs.total_steps:,} steps "
        f"({inputs.total_steps * training.batch / len(inputs.windows):.2f} epochs)",
    ]


def _describe_mixture(inputs: Inputs) -> list[str]:
    """Which species are read at which share, if they are mixed."""
    sources = sorted(inputs.windows.sources, key=lambda source: -source.share)
    if sources[0].name == "":
        return []
    listed = ", ".join(f"{source.name} {source.share:.1%}" for source in sources[:MAX_SOURCES])
    rest = f" and {len(sources) - MAX_SOURCES} more" if len(sources) > MAX_SOURCES else ""
    return [f"mixture  {listed}{rest}"]


def _describe_curriculum(config: RunConfig, inputs: Inputs) -> list[str]:
    """Which steps read how many windows of which length, if they grow."""
    if len(inputs.parts) == 1:
        return []
    parts = (
        f"{config.training.batch * part.batch_factor:,} windows of {part.length:,} bases to step {part.stop:,}"
        for part in inputs.parts
    )
    return [f"lengths  {', '.join(parts)}"]


def _describe_cost(config: RunConfig, inputs: Inputs, world: World) -> str:
    """Operations and memory of a base, as far as they can be known before the run."""
    model_config: Any = inputs.model.config
    length, stages = config.data.length, config.training.activation_checkpointing
    in_bf16 = autocast(config.training.precision, world)
    spent = cost(model_config, length, activation_checkpointing=stages, autocast=in_bf16, device=world.device.type)
    chunks = "/".join(f"{bases:g}" for bases in spent.bases_per_chunk)
    whole = spent.activation_bytes * length * micro_batch(config, world.size)
    forward, both, kept = spent.forward_flops, spent.training_flops, spent.activation_bytes
    return (
        f"cost     {format_si(forward, 'FLOP')} a base forward, {format_si(both, 'FLOP')} training"
        f"{f', at {chunks} bases per chunk' if chunks else ''}; about {format_si(kept, 'B')} of activations "
        f"a base, {format_si(whole, 'B')} a rank{f', recomputing stages {stages}' if stages else ''}"
    )
