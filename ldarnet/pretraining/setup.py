"""Build the components of a run: data, model, engine, resume point, training state."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ldarnet.config import DataSection, RunConfig
from ldarnet.data import CurriculumStage, Masking, NextBase, Regions, ShardSet, Windows, curriculum_stages
from ldarnet.data.loader import BoundarySource
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.model import LDARNetLanguageModel, language_model
from ldarnet.model.kernel_options import kernel_options
from ldarnet.ops import choose_backends
from ldarnet.pretraining.chunk_boundaries import boundary_source, measure_bases_per_chunk, track_hash
from ldarnet.pretraining.masks import training_masking, validation_maskings
from ldarnet.pretraining.run_folder import ResumePoint, open_run_folder
from ldarnet.pretraining.schedule import Schedule
from ldarnet.pretraining.validation import validation_windows
from ldarnet.runtime.checkpoint import CheckpointStore, TrainingState
from ldarnet.runtime.checkpoint_files import check_fits, load_weights
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import Engine, EngineOptions, autocast, check_same_kernels, micro_batch
from ldarnet.runtime.optimizer import parameter_groups
from ldarnet.runtime.zero_state import engine_from_checkpoint
from ldarnet.tokenization import tokenization_or_bases

MEASURED_WINDOWS = 16
"""Windows from which the mean number of bases per token is measured."""
CHUNKING_BASES = 4_000_000
"""Bases of the training windows from which a chunking method learns before training."""


@dataclass(frozen=True)
class Inputs:
    """Data, model and schedule of a run, checked against the configuration; the model is still on the CPU.

    Attributes:
        shards: data set.
        windows: training windows of `data.length` bases, in training order.
        parts: stages of the length curriculum, in order.
        by_length: window length -> training windows.
        masking: targets of training windows.
        regions: regions of the validation split for per-region metrics; None without `validation.regions`.
        model: model with weights initialized from `run.seed`, identical on all ranks.
        kernels: op -> name of the kernel in use.
        schedule: learning rate, target ratio and number of steps.
        bases_per_token: mean bases per token of the first training windows; 1 for a model that reads bases.
        boundaries: source of chunk boundaries; None if the network computes them.
        bases_per_chunk: mean bases per chunk of the first training windows; None if the network computes boundaries.
    """

    shards: ShardSet
    windows: Windows
    parts: tuple[CurriculumStage, ...]
    by_length: dict[int, Windows]
    masking: Masking | NextBase
    regions: Regions | None
    model: LDARNetLanguageModel
    kernels: dict[str, str]
    schedule: Schedule
    bases_per_token: float = 1.0
    boundaries: BoundarySource | None = None
    bases_per_chunk: float | None = None

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.schedule.total


def prepare_inputs(config: RunConfig, world: World) -> Inputs:
    """Open the data and build the model.

    Raises:
        UserError: configuration, shards and installed kernels do not match; raised on all ranks.
    """
    track = track_hash(config, world)
    with world.together():
        data = config.data
        micro_batch(config, world.size)
        in_bf16 = autocast(config.training.precision, world)
        model_config = config.model.build(config.ops)
        if track is not None:
            model_config.chunking["track"] = track
        dtype = torch.bfloat16 if in_bf16 else torch.float32
        kernels = choose_backends(world.device.type, dtype, kernel_options(model_config))
        stages = config.training.activation_checkpointing
        if wrong := [stage for stage in stages if stage not in range(model_config.num_stages)]:
            raise UserError(
                f"training.activation_checkpointing={stages}: this model has no stage {wrong[0]}; choose from stages "
                f"{', '.join(map(str, range(model_config.num_stages)))} (0 is the outermost)"
            )
        shards = open_shards(data)
        windows = training_windows(config, shards, data.length)
        total_steps = _total_steps(config, len(windows))
        parts = curriculum_stages([(part.length, part.share) for part in data.curriculum], data.length, total_steps)
        shorter = {part.length for part in parts} - {data.length}
        by_length = {data.length: windows} | {length: training_windows(config, shards, length) for length in shorter}
        regions = None
        if config.validation.windows:
            validation_windows(shards, config, world, next(iter(validation_maskings(config).values())))
            validation = config.validation
            if validation.regions is not None:
                features, contigs = validation.regions_features, validation.regions_contigs
                regions = Regions(validation.regions, shards, validation.split, features=features, contigs=contigs)
        torch.manual_seed(config.run.seed)
        model = language_model(model_config)
        model.set_activation_checkpointing(stages)
    check_same_kernels(kernels, world)
    schedule = Schedule(config.schedule, total_steps, model_config.target_ratio)
    masking = training_masking(config, tokenization_or_bases(model_config.tokenizer))
    with world.together():
        boundaries = boundary_source(config, model_config, shards)
        measured = _bases_per_token(windows, masking), boundaries, measure_bases_per_chunk(boundaries, windows, masking)
    return Inputs(shards, windows, parts, by_length, masking, regions, model, kernels, schedule, *measured)


def _bases_per_token(windows: Windows, masking: Masking | NextBase) -> float:
    """Mean bases per token of the first training windows."""
    tokenizer = masking.tokenizer
    if tokenizer is None:
        return 1.0
    count = tokenizer.token_count(windows.length)
    if count is None:
        ids, _ = windows.read(windows.locations(np.arange(MEASURED_WINDOWS)))
        return ids.size / sum(len(tokenizer.encode(row)) for row in ids)
    return windows.length / count


def open_shards(data: DataSection) -> ShardSet:
    """Open the shard set of a configuration.

    Raises:
        UserError: the shard set does not exist, is damaged or cannot be read.
    """
    return ShardSet.open(
        data.shards,
        disk_cache=data.cache,
        disk_cache_bytes=int(data.cache_gib * 2**30),
        on_damaged=data.on_damaged,
    )


def training_windows(config: RunConfig, shards: ShardSet, length: int) -> Windows:
    """Create the training windows of one length.

    Raises:
        UserError: the training split has no window of this length, or a species of the mixture is missing.
    """
    data = config.data
    return Windows(
        shards,
        "train",
        length,
        max_n_run=data.max_n_run,
        seed=config.run.seed,
        reverse_complement=data.reverse_complement,
        weights=data.weights,
        temperature=data.temperature,
    )


def find_resume_point(config: RunConfig, inputs: Inputs, store: CheckpointStore, world: World) -> ResumePoint:
    """Find the checkpoint to resume from and load its weights into the model.

    Raises:
        UserError: the run folder holds another run, or its newest checkpoint is damaged, has another architecture or
            was trained on another data set; raised on all ranks.
    """
    found = world.from_main(lambda: open_run_folder(config, store, inputs.shards.fingerprint))
    if found.checkpoint is not None:
        with world.together():
            if not (found.checkpoint / run_files.MANIFEST).is_file():
                raise UserError(f"rank {world.rank} cannot see {found.checkpoint}; put run.dir on a shared file system")
            check_fits(found.checkpoint, inputs.model, inputs.shards.fingerprint, accept_other=config.data.accept_other)
            load_weights(inputs.model, found.checkpoint)
    return found


def fit_chunking(inputs: Inputs, world: World) -> None:
    """Let the chunking method of a new run learn from the first training windows; every rank must call this function.

    Raises:
        UserError: a shard is missing or damaged; raised on all ranks.
    """
    if not inputs.model.config.chunking_method.learns_before_training:
        return
    windows = inputs.windows

    def learned() -> dict[str, torch.Tensor]:
        count = max(1, min(len(windows), CHUNKING_BASES // windows.length))
        ids, _ = windows.read(windows.locations(np.arange(count)))
        router = inputs.model.model.backbone.router
        router.fit(ids)
        return dict(router.named_buffers())

    buffers = world.from_main(learned)
    inputs.model.model.backbone.router.load_state_dict(buffers)


def build_engine(
    config: RunConfig, inputs: Inputs, checkpoint: Path | None, state: TrainingState, world: World
) -> Engine:
    """Build the engine; if `checkpoint` is given, restore the states of the optimizer and the guard from it."""
    groups = parameter_groups(inputs.model, config.optimizer)
    options = EngineOptions.of(config, world)
    engine = engine_from_checkpoint(inputs.model, groups, options, world, checkpoint, state.guard["accepted"])
    if checkpoint is not None:
        engine.guard.load_state_dict(state.guard)
    return engine


def initial_state(config: RunConfig, inputs: Inputs) -> TrainingState:
    """Create the training state before the first step."""
    return TrainingState(
        step=0,
        total_steps=inputs.total_steps,
        position=0,
        seed=config.run.seed,
        fingerprint=inputs.shards.fingerprint,
    )


def _total_steps(config: RunConfig, windows: int) -> int:
    if config.training.steps is not None:
        return config.training.steps
    assert config.training.epochs is not None
    return math.ceil(config.training.epochs * windows / config.training.batch)
