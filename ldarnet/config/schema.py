"""Configuration of pretraining: all keys with defaults, ranges and descriptions."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ldarnet.config.optimization import OptimizerSection, ScheduleSection
from ldarnet.config.sections import (
    MAX_BATCH,
    MAX_EPOCHS,
    MAX_FACTOR,
    MAX_LENGTH,
    MAX_MINUTES,
    MAX_STEP_BASES,
    MAX_STEPS,
    MAX_WIDTH,
    MAY_CHANGE,
    Config,
    Section,
)
from ldarnet.config.tokenizer import TokenizerSection
from ldarnet.config.validation import ValidationSection
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.layout import MAX_STAGES, check_layout

StepNumber = Annotated[int, Field(ge=1, le=MAX_STEPS)]
StageWidths = Annotated[list[Annotated[int, Field(ge=0, le=MAX_WIDTH)]], Field(max_length=MAX_STAGES)]
StageNumbers = Annotated[list[Annotated[int, Field(ge=-1, le=2**31)]], Field(max_length=MAX_STAGES)]


class RunSection(Section):
    """Run folder and seed."""

    dir: Path = Field(description="Run folder, shared by all nodes.", json_schema_extra=MAY_CHANGE)
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of weight initialization, window order and masks.")


class ModelSection(Section):
    """Model preset, and overrides of its fields."""

    preset: str = Field("ldarnet-2m", description="Preset: ldarnet-110m, ldarnet-2m, quickstart or tiny.")
    arch_layout: list[Any] | None = Field(
        None,
        description="Layers as [encoder, inner layout, decoder], such as ['m3t1', ['M10'], 'm4']: m for Mamba-2, t for "
        "attention, upper case for a layer with an MLP.",
    )
    d_model: StageWidths | None = Field(None, description="Width of each stage, outermost first.")
    d_intermediate: StageWidths | None = Field(
        None, description="SwiGLU hidden width of each stage; 0 for stages without MLPs."
    )
    ssm_cfg: dict[str, Annotated[int, Field(ge=1, le=MAX_WIDTH)]] | None = Field(
        None, description="Mamba-2 sizes: d_conv, expand, d_state, headdim, chunk_size."
    )
    attn_cfg: dict[str, StageNumbers] | None = Field(
        None, description="Attention: num_heads, rotary_emb_dim and window_size, each with one value per stage."
    )
    chunking: dict[str, str | Annotated[int, Field(ge=0, lt=2**31)]] | None = Field(
        None,
        description="Method that selects where chunks begin, and its options, such as {method: grid, phase: random}; "
        "see ldarnet/model/chunking/README.md.",
    )
    tie_word_embeddings: bool | None = Field(
        None, description="Share weights between the embedding and the output layer."
    )
    target_ratio: float | None = Field(
        None, gt=1, le=MAX_FACTOR, description="Target compression ratio: positions per chunk at each router."
    )
    ratio_weight: float | None = Field(None, ge=0, le=MAX_FACTOR, description="Weight of the ratio loss.")
    tokenizer: TokenizerSection | None = Field(
        None, description="Tokens of several bases that the model reads, such as {method: kmers, k: 6}; null for bases."
    )

    @field_validator("arch_layout")
    @classmethod
    def _layout(cls, layout: list[Any] | None) -> list[Any] | None:
        if layout is not None:
            try:
                check_layout(layout)
            except ValueError as error:
                raise ValueError(str(error).removeprefix("arch_layout: ")) from None
        return layout

    def build(self, ops: dict[str, str], *, files: bool = True) -> LDARNetConfig:
        """Build the model configuration.

        Args:
            ops: kernel overrides (operation -> backend).
            files: whether to read `tokenizer.file`; otherwise, the vocabulary of the result is a stand-in.

        Raises:
            UserError: the file cannot be read.
            ValueError: unknown preset or inconsistent fields.
        """
        changes = self.model_dump(include=ModelSection.model_fields.keys() - {"preset"}, exclude_none=True)
        if self.tokenizer is not None:
            changes["tokenizer"] = self.tokenizer.settings() if files else self.tokenizer.shape_settings()
        for nested in ("ssm_cfg", "attn_cfg"):
            if nested in changes:
                changes[nested] = {**getattr(LDARNetConfig.preset(self.preset), nested), **changes[nested]}
        return LDARNetConfig.preset(self.preset, **changes, **({"ops": ops} if ops else {}))

    def check(self, ops: dict[str, str]) -> None:
        """Check that the model can be built.

        Raises:
            ValueError: see `build`; the message starts with a key, such as `model.d_model`.
        """
        try:
            self.build(ops, files=False)
        except ValueError as error:
            raise ValueError(f"model.{error}") from None


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
        self._check_tokens()
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

    def _check_tokens(self) -> None:
        if self.model.tokenizer is None:
            return
        unit = self.model.tokenizer.span
        spans = {"data.mask_span": [self.data.mask_span], "validation.mask_spans": self.validation.mask_spans}
        for key, span in ((key, span) for key, values in spans.items() for span in values if span % unit):
            raise ValueError(
                f"{key}: tokens of {unit} bases are masked as a whole, but the span is {span}; set it to "
                f"{unit} or a multiple of it"
            )
        if self.validation.regions is not None:
            raise ValueError("validation.regions is not supported for models that read tokens; set it to null")
