"""Description of a run that is printed at launch: model, data, engine, kernels, cost and number of steps."""

from typing import Any

from ldarnet.config import RunConfig
from ldarnet.console import format_si
from ldarnet.model.chunking import complete_options
from ldarnet.model.cost import cost
from ldarnet.model.kernel_options import unused_operations
from ldarnet.pretraining.setup import Inputs
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import autocast, micro_batch

MAX_SOURCES = 8
"""Maximum number of species of a mixture to list by name; the rest is printed as a count."""


def describe(config: RunConfig, inputs: Inputs, world: World) -> list[str]:
    """Describe the run, one line per topic."""
    model: Any = inputs.model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    training, length, data = config.training, config.data.length, inputs.shards
    unused = unused_operations(model.config)
    chosen = {operation: name for operation, name in inputs.kernels.items() if operation not in unused}
    kernels = {name: [operation for operation in chosen if chosen[operation] == name] for name in chosen.values()}
    listed = "; ".join(f"{name}: {', '.join(operations)}" for name, operations in kernels.items())
    precision = "bf16 autocast with fp32 weights" if autocast(training.precision, world) else "fp32"
    segments, bases = inputs.windows.skipped
    dropped = f"; dropped {segments:,} segments ({bases:,} bases) shorter than a window" if segments else ""
    offload = " with CPU optimizer offload" if training.offload else ""
    return [
        f"model    {config.model.preset}, {parameters:,} parameters, layout {model.config.arch_layout}"
        f"{', causal' if model.config.causal else ''}",
        f"data     {config.data.shards} (fingerprint {data.fingerprint[:12]}), {len(inputs.windows):,} training "
        f"windows of {length:,} bases per epoch{dropped}",
        *_describe_tokens(inputs),
        *_describe_chunking(inputs),
        *_describe_mixture(inputs),
        *_describe_curriculum(config, inputs),
        f"engine   {world.size} x {world.device_label}, ZeRO stage {training.zero_stage}{offload}, {precision}; "
        f"global batch {training.batch} windows ({training.batch * length:,} bases), gradient accumulation "
        f"{training.accumulation}",
        *_describe_muon(config, inputs),
        f"kernels  {listed}",
        _describe_cost(config, inputs, world),
        f"run      {config.run.dir}, {inputs.total_steps:,} steps "
        f"({inputs.total_steps * training.batch / len(inputs.windows):.2f} epochs)",
    ]


def _describe_tokens(inputs: Inputs) -> list[str]:
    """Describe the vocabulary of a model that reads tokens; empty for a model that reads bases."""
    tokenizer = inputs.masking.tokenizer
    if tokenizer is None:
        return []
    size, bases = len(tokenizer.tokens), inputs.bases_per_token
    return [f"tokens   {tokenizer.method}, vocabulary of {size:,}, {bases:.2f} bases per token"]


def _describe_chunking(inputs: Inputs) -> list[str]:
    """Describe the chunking method and the options that are not the default; empty for the published method."""
    chosen: Any = inputs.model.config.chunking
    method = chosen["method"]
    causal = inputs.model.config.causal
    defaults = complete_options({"method": method}, causal=causal)
    changed = {key: value for key, value in chosen.items() if value != defaults[key] and not isinstance(value, list)}
    options = [f"{key}={str(value)[:16]}" for key, value in changed.items()]
    if inputs.bases_per_chunk is not None:
        options.append(f"{inputs.bases_per_chunk:.2f} bases per chunk")
    published = chosen == complete_options({}, causal=causal)
    return [] if published else [f"chunks   {', '.join([f'method {method}', *options])}"]


def _describe_mixture(inputs: Inputs) -> list[str]:
    """Describe the species of the mixture and their sampling fractions; empty without a mixture."""
    sources = sorted(inputs.windows.sources, key=lambda source: -source.share)
    if sources[0].name == "":
        return []
    listed = ", ".join(f"{source.name} {source.share:.1%}" for source in sources[:MAX_SOURCES])
    rest = f" and {len(sources) - MAX_SOURCES} more" if len(sources) > MAX_SOURCES else ""
    return [f"mixture  {listed}{rest}"]


def _describe_curriculum(config: RunConfig, inputs: Inputs) -> list[str]:
    """Describe the batch size and window length of each curriculum stage; empty without a curriculum."""
    if len(inputs.parts) == 1:
        return []
    parts = (
        f"{config.training.batch * part.batch_factor:,} windows of {part.length:,} bases until step {part.stop:,}"
        for part in inputs.parts
    )
    return [f"lengths  {', '.join(parts)}"]


def _describe_muon(config: RunConfig, inputs: Inputs) -> list[str]:
    """Describe which parameters Muon updates; empty without Muon."""
    if config.optimizer.name != "muon":
        return []
    sizes = {name: parameter.numel() for name, parameter in inputs.model.named_parameters()}
    matrices = inputs.model.matrix_rows()
    count, parameters = sum(map(len, matrices.values())), sum(sizes[name] for name in matrices)
    return [f"muon     {count} matrices with {parameters:,} parameters; AdamW for the others"]


def _describe_cost(config: RunConfig, inputs: Inputs, world: World) -> str:
    """Describe the estimated FLOPs and activation memory per base."""
    model_config: Any = inputs.model.config
    length, stages = config.data.length, config.training.activation_checkpointing
    in_bf16 = autocast(config.training.precision, world)
    spent = cost(
        model_config,
        length,
        None if inputs.bases_per_chunk is None else [inputs.bases_per_chunk],
        bases_per_token=inputs.bases_per_token,
        activation_checkpointing=stages,
        autocast=in_bf16,
        device=world.device.type,
    )
    chunks = "/".join(f"{bases:g}" for bases in spent.bases_per_chunk)
    memory = spent.activation_bytes * length * micro_batch(config, world.size)
    forward, training = format_si(spent.forward_flops, "FLOP"), format_si(spent.training_flops, "FLOP")
    return (
        f"cost     {forward} per base forward, {training} forward and backward"
        f"{f', at {chunks} bases per chunk' if chunks else ''}; activation memory about "
        f"{format_si(spent.activation_bytes, 'B')} per base, {format_si(memory, 'B')} per rank"
        f"{f', with activation checkpointing of stages {stages}' if stages else ''}"
    )
