"""Configuration of pretraining: all keys with defaults, ranges and descriptions."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ldarnet.config.model import ModelSection
from ldarnet.config.optimization import OptimizerSection, ScheduleSection
from ldarnet.config.sections import (
    MAX_BATCH,
    MAX_EPOCHS,
    MAX_FACTOR,
    MAX_LENGTH,
    MAX_MINUTES,
    MAX_STEP_BASES,
    MAX_STEPS,
    MAY_CHANGE,
    Config,
    Section,
)
from ldarnet.config.targets import check_causal, check_tokens
from ldarnet.config.validation import ValidationSection
from ldarnet.model.layout import MAX_STAGES

StepNumber = Annotated[int, Field(ge=1, le=MAX_STEPS)]


class RunSection(Section):
    """Run folder and seed."""

    dir: Path = Field(description="Run folder, shared by all nodes.", json_schema_extra=MAY_CHANGE)
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of weight initialization, window order and masks.")


class LengthStage(Section):
    """Part of the length curriculum: a window length and its fraction of the steps."""

    length: int = Field(ge=8, le=MAX_LENGTH, description="Bases per window.")
    share: float = Field(gt=0, lt=1, description="Fraction of the optimizer steps that use this length.")


class DataSection(Section):
    """Shards, windows and masking."""

    shards: str = Field(
        description="Folder or URL (s3://, gs://, https://) of a shard set built by `ldarnet shard`.",
        json_schema_extra=MAY_CHANGE,
    )
    accept_other: bool = Field(
        False,
        description="Resume even if the fingerprint of the shard set has changed. Training continues at the same "
        "position in the window order.",
        json_schema_extra=MAY_CHANGE,
    )
    length: int = Field(4096, ge=8, le=MAX_LENGTH, description="Bases per window.")
    curriculum: list[LengthStage] = Field(
        [],
        max_length=100,
        description="Length curriculum: start with shorter windows, such as [{length: 1024, share: 0.1}]. Shorter "
        "windows come in proportionally larger batches, so that bases per step stay constant. Each length must be a "
        "divisor of data.length.",
    )
    max_n_run: int = Field(100, ge=0, le=MAX_LENGTH, description="Longest run of N allowed in a window.")
    reverse_complement: bool = Field(True, description="Reverse-complement each window with probability 1/2.")
    weights: dict[str, Annotated[float, Field(gt=0, le=MAX_FACTOR)]] | None = Field(
        None,
        description="Relative number of windows to sample from each species, such as {yeast: 3, human: 1}.",
    )
    temperature: float | None = Field(
        None,
        gt=0,
        le=MAX_FACTOR,
        description="Sample species in proportion to (number of windows) ** (1 / temperature). With 1, sampling is "
        "proportional to the number of windows; with large values, it is nearly uniform. Mutually exclusive with "
        "`weights`.",
    )
    mask_rate: float = Field(
        0.15, gt=0, lt=1, description="Fraction of A, C, G, T positions that are prediction targets."
    )
    mask_share: float = Field(0.8, ge=0, le=1, description="Fraction of targets replaced by [MASK].")
    random_share: float = Field(0.1, ge=0, le=1, description="Fraction of targets replaced by a random base.")
    mask_span: int = Field(
        1,
        ge=1,
        le=MAX_LENGTH,
        description="Bases per masked span. A window consists of spans of this length, aligned to its first base; the "
        "bases of a span are targets together. 1 masks single bases.",
    )
    boundaries: Path | None = Field(
        None,
        description="BED or bigWig file from which the chunk boundaries of model.chunking.method=file are read, at the "
        "coordinates of each window; see ldarnet/model/chunking/README.md.",
        json_schema_extra=MAY_CHANGE,
    )
    boundaries_contigs: dict[str, str] | Path | None = Field(
        None,
        description="Contig names: a mapping from names in the `boundaries` file to names in the shard set, such as "
        "{chr1: NC_000001.11}, or a file that lists both names in two tab-separated columns.",
        json_schema_extra=MAY_CHANGE,
    )
    workers: int = Field(0, ge=0, le=256, description="Data loader processes per rank.", json_schema_extra=MAY_CHANGE)
    on_damaged: Literal["stop", "quarantine"] = Field(
        "stop",
        description="stop: a damaged or missing shard stops the run. quarantine: windows that cannot be read are "
        "logged and excluded from the loss, identically on all ranks.",
        json_schema_extra=MAY_CHANGE,
    )
    cache: Path | None = Field(
        None, description="Cache folder for remote shards; null for ~/.cache/ldarnet.", json_schema_extra=MAY_CHANGE
    )
    cache_gib: float = Field(
        16, gt=0, le=MAX_FACTOR, description="Maximum size of the cache folder, in GiB.", json_schema_extra=MAY_CHANGE
    )

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.mask_share + self.random_share > 1:
            shares = f"mask_share={self.mask_share:g} + random_share={self.random_share:g}"
            raise ValueError(f"{shares} is more than 1; reduce one of them")
        if self.mask_span > (shortest := min([self.length, *(stage.length for stage in self.curriculum)])):
            raise ValueError(f"mask_span={self.mask_span} is longer than a window of {shortest} bases; reduce it")
        if wrong := [stage.length for stage in self.curriculum if self.length % stage.length]:
            raise ValueError(f"curriculum: length {wrong[0]} does not divide length={self.length}; choose a divisor")
        if sum(stage.share for stage in self.curriculum) >= 1:
            raise ValueError(
                "curriculum: the shares must add up to less than 1, because the remaining steps use the full length; "
                "reduce one of them"
            )
        if self.weights is not None and self.temperature is not None:
            raise ValueError(
                f"weights and temperature={self.temperature:g} are mutually exclusive; to drop the one in the "
                "configuration file, pass weights=null or temperature=null on the command line"
            )
        return self


class TrainingSection(Section):
    """Duration, batch size, engine and precision."""

    steps: int | None = Field(
        None, ge=1, le=MAX_STEPS, description="Total optimizer steps; mutually exclusive with `epochs`."
    )
    epochs: float | None = Field(
        None, gt=0, le=MAX_EPOCHS, description="Passes over the training windows; mutually exclusive with `steps`."
    )
    stop_after: int | None = Field(
        None,
        ge=1,
        le=MAX_STEPS,
        description="Save a checkpoint and stop after this step. The learning rate schedule does not change.",
        json_schema_extra=MAY_CHANGE,
    )
    batch: int = Field(
        32,
        ge=1,
        le=MAX_BATCH,
        description="Global batch size: windows per optimizer step, summed over ranks and micro-steps.",
    )
    accumulation: int = Field(
        1,
        ge=1,
        le=MAX_BATCH,
        description="Gradient accumulation: micro-steps per optimizer step. The size of a micro-batch on each rank is "
        "batch / accumulation / ranks. Affects the result, because the ratio loss is computed per micro-step.",
    )
    zero_stage: int = Field(1, ge=0, le=3, description="DeepSpeed ZeRO stage.", json_schema_extra=MAY_CHANGE)
    offload: bool = Field(
        False,
        description="ZeRO-Offload: keep and update the optimizer state in CPU memory; needs ZeRO stage 1, 2 or 3.",
        json_schema_extra=MAY_CHANGE,
    )
    activation_checkpointing: list[Annotated[int, Field(ge=0, lt=MAX_STAGES)]] = Field(
        [],
        max_length=MAX_STAGES,
        description="Stages (0 = outermost) whose layers are recomputed in the backward pass; saves activation memory "
        "at the cost of up to a third more compute.",
        json_schema_extra=MAY_CHANGE,
    )
    chunk_capacity_factor: float | None = Field(
        None,
        ge=1,
        le=MAX_FACTOR,
        description="Static number of chunks: each rank computes this many times the target number of chunks, and pads "
        "the unused ones, so that the host does not wait for the GPU to count chunks. Applies while the router is near "
        "its target. A step with more chunks is skipped. Null to count chunks.",
        json_schema_extra=MAY_CHANGE,
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="auto: bf16 autocast on GPU, fp32 on CPU. On a CPU, bf16 "
        "speeds up only large models, and only with AMX, AVX-512 BF16 or Arm BF16.",
    )
    log_every: int = Field(
        1, ge=1, le=MAX_STEPS, description="Logging interval in steps.", json_schema_extra=MAY_CHANGE
    )
    timeout_minutes: float = Field(
        30,
        gt=0,
        le=MAX_MINUTES,
        description="Watchdog timeout: end the job if a rank makes no progress for this long. Must be longer than the "
        "time that it takes to validate or to save a checkpoint.",
        json_schema_extra=MAY_CHANGE,
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            if self.steps is None:
                raise ValueError("steps and epochs are missing; set steps=... or epochs=...")
            raise ValueError(
                f"steps={self.steps} and epochs={self.epochs:g} are mutually exclusive; set steps=null or epochs=null"
            )
        if self.offload and self.zero_stage == 0:
            raise ValueError("offload=true needs ZeRO stage 1, 2 or 3; set zero_stage=1 or offload=false")
        if self.batch % self.accumulation:
            raise ValueError(
                f"batch={self.batch} cannot be divided into accumulation={self.accumulation} equal micro-steps; "
                "change one of them"
            )
        return self


class CheckpointSection(Section):
    """Checkpoint interval, retention and remote copy."""

    every: int = Field(
        500, ge=1, le=MAX_STEPS, description="Checkpoint interval in steps.", json_schema_extra=MAY_CHANGE
    )
    keep: int = Field(
        2,
        ge=1,
        le=MAX_STEPS,
        description="Number of recent checkpoints to keep besides the best one.",
        json_schema_extra=MAY_CHANGE,
    )
    remote: str | None = Field(
        None,
        description="URL (s3://, gs://, file://) of a folder to which checkpoints are copied. A run resumes from there "
        "if run.dir has no newer checkpoint.",
        json_schema_extra=MAY_CHANGE,
    )


class GuardSection(Section):
    """Skip steps whose loss spikes, or whose loss or gradient is not finite. All ranks skip the same steps."""

    spike_sigma: float | None = Field(
        6.0,
        gt=0,
        le=MAX_FACTOR,
        description="Skip a step whose loss is this many standard deviations above the mean loss of the last accepted "
        "steps (see guard.window); null to skip only steps whose loss or gradient is not finite.",
    )
    window: int = Field(
        128,
        ge=8,
        le=MAX_FACTOR,
        description="Number of recent accepted steps from which the mean and standard deviation are computed. Spikes "
        "are detected only after that many accepted steps. Counting restarts when data.curriculum changes the window "
        "length.",
    )
    stop_after: int = Field(
        10,
        ge=1,
        le=MAX_STEPS,
        description="Number of consecutive skipped steps after which the run stops with an error.",
    )


class TrackingSection(Section):
    """MLflow tracking; metrics.jsonl is always written."""

    mlflow: bool = Field(
        True,
        description="Log to MLflow at MLFLOW_TRACKING_URI or, if this variable is not set, to mlflow.db "
        "in the run folder.",
    )
    experiment: str = Field("ldarnet-pretraining", min_length=1, description="Name of the MLflow experiment.")
    name: str | None = Field(
        None, min_length=1, description="Name of the MLflow run; null for the name of the run folder."
    )
    parent: str | None = Field(None, description="ID of the parent MLflow run.")
    profile: tuple[StepNumber, StepNumber] | None = Field(
        None,
        description="First and last step to profile on rank 0, such as [10, 12]. Independently of this setting, a rank "
        "that receives SIGUSR2 profiles its next three steps.",
    )

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.profile is not None and not 1 <= self.profile[0] <= self.profile[1]:
            raise ValueError(f"profile={list(self.profile)}: write [first, last] with 1 <= first <= last")
        return self


class RunConfig(Config):
    """Configuration of a pretraining run; load it with `ldarnet.config.load_config`."""

    run: RunSection
    model: ModelSection = ModelSection()  # type: ignore[call-arg]
    data: DataSection
    optimizer: OptimizerSection = OptimizerSection()  # type: ignore[call-arg]
    schedule: ScheduleSection = ScheduleSection()  # type: ignore[call-arg]
    training: TrainingSection
    checkpoint: CheckpointSection = CheckpointSection()  # type: ignore[call-arg]
    guard: GuardSection = Field(GuardSection(), json_schema_extra=MAY_CHANGE)  # type: ignore[call-arg]
    validation: ValidationSection = ValidationSection()  # type: ignore[call-arg]
    tracking: TrackingSection = Field(TrackingSection(), json_schema_extra=MAY_CHANGE)  # type: ignore[call-arg]
    ops: dict[str, str] = Field(
        {}, description="Kernel overrides by operation, such as {ssd: torch}.", json_schema_extra=MAY_CHANGE
    )

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        self.model.check(self.ops)
        check_tokens(self.model, self.data, self.validation)
        check_causal(self.model, self.data, self.validation)
        used = (self.model.chunking or {}).get("method") == "file"
        if used != (self.data.boundaries is not None):
            raise ValueError(
                "data.boundaries: required by model.chunking.method=file; set it to a BED or bigWig file"
                if used
                else "data.boundaries: only for model.chunking.method=file; set it to null"
            )
        if wrong := [span for span in self.validation.mask_spans if span > self.data.length]:
            raise ValueError(
                f"validation.mask_spans: {wrong[0]} is longer than a window of data.length={self.data.length} bases; "
                "reduce it"
            )
        if (bases := self.training.batch * self.data.length) > MAX_STEP_BASES:
            raise ValueError(
                f"training.batch={self.training.batch} windows of data.length={self.data.length} are {bases:,} bases "
                f"per optimizer step, more than {MAX_STEP_BASES:,}; reduce one of them"
            )
        return self
