"""The typed, frozen description of one pretraining run: every key, its meaning, its range and its default."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from ldarnet.io.files import atomic_path
from ldarnet.model.configuration import LDARNetConfig

MAY_CHANGE: JsonDict = {"may_change": True}
"""Marks a key that an unfinished run may be continued with a new value of, because it does not enter the result."""


class Section(BaseModel):
    """A frozen group of keys; a key that is not declared is an error, and so is a number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Config(Section):
    """A whole configuration: sections, and plain keys beside them."""

    def save(self, path: Path) -> None:
        """Write every key with its resolved value as YAML; the file is enough to rerun the run."""
        with atomic_path(path) as temporary:
            temporary.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


class RunSection(Section):
    """Where the run lives and where its chance comes from."""

    dir: Path = Field(description="Folder of the run, seen by all ranks of all nodes.", json_schema_extra=MAY_CHANGE)
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the initial weights, the order of windows and the masks.")


class ModelSection(Section):
    """A preset, and fields of the model's configuration that depart from it."""

    preset: str = Field("ldarnet-2m", description="Name of a preset of LDARNetConfig.")
    arch_layout: list[Any] | None = Field(None, description="Nested layout such as ['m3t1', ['M10'], 'm4'].")
    d_model: list[int] | None = Field(None, description="Width of each stage, outermost first.")
    d_intermediate: list[int] | None = Field(None, description="SwiGLU width of each stage, 0 where it has none.")
    ssm_cfg: dict[str, int] | None = Field(None, description="d_conv, expand, d_state, headdim, chunk_size.")
    attn_cfg: dict[str, list[int]] | None = Field(None, description="num_heads, rotary_emb_dim, window_size by stage.")
    tie_word_embeddings: bool | None = Field(None, description="Share the embedding with the output layer.")
    target_ratio: float | None = Field(None, gt=1, description="Bases per chunk that the ratio loss aims at.")
    ratio_weight: float | None = Field(None, ge=0, description="Weight of the ratio loss.")

    def build(self, ops: dict[str, str]) -> LDARNetConfig:
        """The model's configuration, with the demanded kernel backends `ops` (operation -> backend)."""
        changes = self.model_dump(include=ModelSection.model_fields.keys() - {"preset"}, exclude_none=True)
        for nested in ("ssm_cfg", "attn_cfg"):
            if nested in changes:
                changes[nested] = {**getattr(LDARNetConfig.preset(self.preset), nested), **changes[nested]}
        return LDARNetConfig.preset(self.preset, **changes, **({"ops": ops} if ops else {}))


class LengthStage(Section):
    """A first part of a run with shorter windows."""

    length: int = Field(ge=8, le=2**24, description="Bases per window.")
    share: float = Field(gt=0, lt=1, description="Share of all optimiser steps.")


class DataSection(Section):
    """What is read, and how windows and masks are cut from it."""

    shards: str = Field(
        description="Folder or URL (s3://, gs://, https://) of a shard set built by `ldarnet shard`.",
        json_schema_extra=MAY_CHANGE,
    )
    accept_other: bool = Field(
        False,
        description="Continue a run on a shard set of another fingerprint, from the same position in its order.",
        json_schema_extra=MAY_CHANGE,
    )
    length: int = Field(4096, ge=8, le=2**24, description="Bases per window.")
    curriculum: list[LengthStage] = Field(
        [],
        description="Shorter windows first, such as [{length: 1024, share: 0.1}]; as many more of them a step, so that "
        "a step has the same number of bases. Each length divides `length`.",
    )
    max_n_run: int = Field(100, ge=0, description="No window crosses a run of N longer than this.")
    reverse_complement: bool = Field(True, description="Read each window from either strand with probability 1/2.")
    weights: dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        None, description="Weight of each species in the mixture, such as {yeast: 3, human: 1}; a share of the windows."
    )
    temperature: float | None = Field(
        None,
        gt=0,
        description="Mix all species by windows ** (1 / temperature): 1 by size, large evenly. Or weights.",
    )
    mask_rate: float = Field(0.15, gt=0, lt=1, description="Share of A, C, G, T positions that are scored.")
    mask_share: float = Field(0.8, ge=0, le=1, description="Share of the scored positions shown as [MASK].")
    random_share: float = Field(0.1, ge=0, le=1, description="Share of the scored positions shown as a random base.")
    workers: int = Field(0, ge=0, le=256, description="Reading processes per rank.", json_schema_extra=MAY_CHANGE)
    on_damaged: Literal["stop", "quarantine"] = Field(
        "stop",
        description="stop: a damaged or missing shard ends the run. quarantine: windows that touch it are reported and "
        "not scored, on all ranks alike.",
        json_schema_extra=MAY_CHANGE,
    )
    cache: Path | None = Field(
        None, description="Folder for what is read from a URL; ~/.cache/ldarnet if null.", json_schema_extra=MAY_CHANGE
    )
    cache_gib: float = Field(16, gt=0, description="Largest size of that folder.", json_schema_extra=MAY_CHANGE)

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.mask_share + self.random_share > 1:
            raise ValueError("mask_share + random_share must be at most 1")
        if wrong := [stage.length for stage in self.curriculum if self.length % stage.length]:
            raise ValueError(f"curriculum length {wrong[0]} does not divide length={self.length}")
        if sum(stage.share for stage in self.curriculum) >= 1:
            raise ValueError("the shares of curriculum must add up to less than 1")
        if self.weights is not None and self.temperature is not None:
            raise ValueError("set weights or temperature, not both (data.temperature=null takes a file's back)")
        return self


class AdamWSection(Section):
    """What every use of AdamW sets alike."""

    betas: tuple[float, float] = Field((0.9, 0.95), description="Decay of the two moments, each in [0, 1).")
    eps: float = Field(1e-8, gt=0, le=1, description="Added to the root of the second moment.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the whole gradient.")

    @model_validator(mode="after")
    def _betas(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas={list(self.betas)} is out of range: each at least 0 and less than 1")
        return self


class OptimizerSection(AdamWSection):
    """AdamW in groups by stage and weight decay."""

    lr: float = Field(5e-4, gt=0, le=1, description="Learning rate of the innermost main network.")
    weight_decay: float = Field(0.01, ge=0, le=1, description="Not applied to biases, norms, A_log, D and dt_bias.")
    stage_multiplier: Literal["published", "hnet", "none"] = Field(
        "published", description="Learning-rate rule for the stages outside the main network."
    )


class ScheduleSection(Section):
    """Warm-up, plateau, decay; shares of all optimiser steps."""

    decay_shape: Literal["published", "sqrt"] = Field("published", description="Shape of the decay.")
    warmup: float = Field(0.1, ge=0, le=1, description="Share of the steps in the linear warm-up.")
    decay: float = Field(0.2, ge=0, le=1, description="Share of the steps in the decay.")
    ratio_start: float | None = Field(
        None, gt=1, description="Bases per chunk that the ratio loss aims at first, on its way to model.target_ratio."
    )
    ratio_warmup: float = Field(0.1, ge=0, le=1, description="Share of the steps on that way, if ratio_start is set.")

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.warmup + self.decay > 1:
            raise ValueError("warmup + decay must be at most 1")
        return self


class TrainingSection(Section):
    """How long, in what batches and on what engine."""

    steps: int | None = Field(None, ge=1, description="Optimiser steps of the whole run; or set epochs.")
    epochs: float | None = Field(None, gt=0, description="Passes over the training windows; or set steps.")
    stop_after: int | None = Field(
        None, ge=1, description="Save and stop after this step; the schedule stays.", json_schema_extra=MAY_CHANGE
    )
    batch: int = Field(32, ge=1, description="Windows per optimiser step, over all ranks and micro-steps.")
    accumulation: int = Field(
        1,
        ge=1,
        description="Micro-steps per optimiser step; a rank computes batch / accumulation / ranks windows at once. "
        "The ratio loss is taken micro-step by micro-step, so the number of them enters the result.",
    )
    zero_stage: int = Field(1, ge=0, le=3, description="DeepSpeed ZeRO stage.", json_schema_extra=MAY_CHANGE)
    offload: bool = Field(
        False,
        description="Keep the optimiser's state, and take its steps, in the memory of the CPU; ZeRO stage 1, 2 or 3.",
        json_schema_extra=MAY_CHANGE,
    )
    activation_checkpointing: list[int] = Field(
        [],
        description="Stages (0 = outermost) whose layers are recomputed in the backward pass; saves activation memory "
        "for up to a third more compute.",
        json_schema_extra=MAY_CHANGE,
    )
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="auto: bf16 autocast on GPU, fp32 on CPU.")
    log_every: int = Field(1, ge=1, description="Steps between lines of metrics.", json_schema_extra=MAY_CHANGE)
    timeout_minutes: float = Field(
        30,
        gt=0,
        description="A rank without progress for this long ends the job; more than any validation or save takes.",
        json_schema_extra=MAY_CHANGE,
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("set exactly one of steps and epochs (set the other to null)")
        if self.offload and self.zero_stage == 0:
            raise ValueError("offload=true needs zero_stage 1, 2 or 3")
        if self.batch % self.accumulation:
            raise ValueError(f"batch={self.batch} cannot be divided into accumulation={self.accumulation} micro-steps")
        return self


class CheckpointSection(Section):
    """When to save and what to keep."""

    every: int = Field(500, ge=1, description="Steps between checkpoints.", json_schema_extra=MAY_CHANGE)
    keep: int = Field(2, ge=1, description="Latest checkpoints kept beside the best.", json_schema_extra=MAY_CHANGE)
    remote: str | None = Field(
        None,
        description="URL (s3://, gs://, file://) of a folder that complete checkpoints are copied to, and continued "
        "from where run.dir has none newer.",
        json_schema_extra=MAY_CHANGE,
    )


class GuardSection(Section):
    """Steps that are not taken: on all ranks alike, decided on the device."""

    spike_sigma: float | None = Field(
        6.0,
        gt=0,
        description="A step whose loss lies this many standard deviations above the mean of those before is skipped; "
        "null to skip only what is not finite.",
    )
    window: int = Field(128, ge=8, description="Steps that mean and deviation are taken over; none is a spike before.")
    stop_after: int = Field(10, ge=1, description="Steps skipped in a row that end the run with a diagnosis.")


class ValidationSection(Section):
    """A fixed set of windows and masks from a held-out split."""

    every: int = Field(500, ge=1, description="Steps between validations.")
    split: str = Field("valid", description="Name of the held-out split in the shard set.")
    windows: int = Field(256, ge=0, description="Windows, evenly spread over the split; 0 for no validation.")
    regions: Path | None = Field(
        None,
        description="BED file whose fourth column names regions (repeat, coding, ...) to validate apart.",
        json_schema_extra=MAY_CHANGE,
    )


class TrackingSection(Section):
    """MLflow; metrics.jsonl is written in any case."""

    mlflow: bool = Field(True, description="Log to MLFLOW_TRACKING_URI, else to mlflow.db in the run folder.")
    experiment: str = Field("ldarnet-pretraining", min_length=1, description="Name of the MLflow experiment.")
    profile: tuple[int, int] | None = Field(
        None, description="First and last step that rank 0 profiles; SIGUSR2 to a rank profiles its next three."
    )

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.profile is not None and not 1 <= self.profile[0] <= self.profile[1]:
            raise ValueError(f"profile={list(self.profile)}: give a first step of at least 1 and one not before it")
        return self


class RunConfig(Config):
    """One pretraining run. `ldarnet.config.load_config` reads it, `save` writes it back."""

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
        {}, description="Kernel demanded for an operation, such as {ssd: torch}.", json_schema_extra=MAY_CHANGE
    )
