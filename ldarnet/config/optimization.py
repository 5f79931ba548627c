"""Configuration of the optimizer and of the learning rate schedule."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ldarnet.config.sections import MAX_FACTOR, Section

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamWSection(Section):
    """AdamW settings shared by pretraining and fine-tuning."""

    betas: tuple[Beta, Beta] = Field((0.9, 0.95), description="AdamW betas, each in [0, 1).")
    eps: float = Field(1e-8, gt=0, le=1, description="AdamW epsilon.")
    clip: float = Field(1.0, gt=0, le=MAX_FACTOR, description="Maximum global gradient norm (gradient clipping).")


class OptimizerSection(AdamWSection):
    """Optimizer settings of pretraining."""

    name: Literal["adamw", "muon"] = Field(
        "adamw",
        description="adamw. muon: Muon for the matrices of the hidden layers, with the learning rate and weight decay "
        "of AdamW; AdamW for embedding, head, router, convolutions, norms and biases.",
    )
    lr: float = Field(5e-4, gt=0, le=1, description="Peak learning rate of the main network.")
    weight_decay: float = Field(
        0.01, ge=0, le=1, description="Weight decay; not applied to biases, norms, A_log, D and dt_bias."
    )
    stage_multiplier: Literal["published", "hnet", "none"] = Field(
        "published",
        description="Learning rate multiplier of each stage outside the main network. published: sqrt(r) * w. hnet: "
        "sqrt(r * w). none: 1. r is the target number of positions in the stage per position in the main network; w is "
        "the width of the main network divided by the width of the stage.",
    )


class ScheduleSection(Section):
    """Warmup-stable-decay schedule. Durations are fractions of the total number of optimizer steps."""

    decay_shape: Literal["published", "sqrt"] = Field(
        "published",
        description="Shape of the decay. published: as in the authors' code, down to 5% of the peak. sqrt: 1 - "
        "sqrt(t/T) in step t of T decay steps, down to 0.",
    )
    warmup: float = Field(0.1, ge=0, le=1, description="Fraction of steps in the linear warm-up.")
    decay: float = Field(0.2, ge=0, le=1, description="Fraction of steps in the decay.")
    ratio_start: float | None = Field(
        None,
        gt=1,
        le=MAX_FACTOR,
        description="Initial target compression ratio; null for a constant target. During ratio_warmup, the target "
        "changes geometrically to model.target_ratio.",
    )
    ratio_warmup: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Fraction of steps over which the target ramps from ratio_start to model.target_ratio.",
    )

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup={self.warmup:g} + decay={self.decay:g} is more than 1; reduce one of them")
        return self
