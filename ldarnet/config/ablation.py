"""Configuration of ablations: arms, learning rates, sizes, downstream tasks and resources."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ldarnet.config.resources import MAX_RESOURCES, ParentTrackingSection, RaySection, TrialResources
from ldarnet.config.sections import MAX_STEPS, MAY_CHANGE, Config, Section, dotted

ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,63}")
MAX_ARMS = 100
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class AblationSection(Section):
    """Folder, reference and seeds."""

    dir: Path = Field(description="Ablation folder, shared by all machines of the cluster.")
    reference: str = Field(
        "learned", description="Arm that sets the training FLOPs per base and that all other arms are compared with."
    )
    seeds: list[Seed] = Field(
        [0, 1, 2],
        min_length=1,
        max_length=100,
        description="Seeds of the pretraining runs of each arm. Runs with equal seeds see the same windows and masks.",
    )
    retries: int = Field(
        2,
        ge=0,
        le=MAX_RESOURCES,
        description="Maximum number of times that a failed or killed run is retried in one launch of the ablation.",
    )


class LrSection(Section):
    """Learning rate search: each arm trains with every learning rate, and keeps the one with the lowest loss."""

    values: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [],
        max_length=20,
        description="Learning rates to try, the same for all arms; with fewer than two, nothing is searched. The one "
        "with the lowest final validation loss on masked positions is chosen.",
    )
    steps: int | None = Field(
        None, ge=1, le=MAX_STEPS, description="Optimizer steps of a search run; null for training.steps."
    )
    seed: Seed = Field(1000, description="Seed of the search runs; it should not be one of ablation.seeds.")


class SizingSection(Section):
    """Sizes of the main networks, so that all arms have the training FLOPs per base of the reference."""

    enabled: bool = Field(True, description="Resize the main networks; false to train the models as configured.")
    tolerance: float = Field(
        0.01, gt=0, lt=1, description="Maximum relative difference in training FLOPs per base from the reference."
    )
    bases_per_chunk: dict[str, list[Annotated[float, Field(ge=1, le=1e6)]]] = Field(
        {},
        description="Measured bases per chunk, such as {learned: [4.3]}, one value per router, to size an arm by; by "
        "default, the target.",
    )


class DownstreamSection(Section):
    """Fine-tuning of the pretrained models."""

    finetune: Path | None = Field(
        None, description="File with the fine-tuning configuration; null for pretraining only."
    )
    tasks: str | list[str] = Field(
        [], description="Tasks or suites (nt, gb, gue) from `ldarnet tasks`.", json_schema_extra=MAY_CHANGE
    )
    modes: list[Literal["probe", "finetune"]] = Field(
        ["probe", "finetune"],
        min_length=1,
        description="probe: logistic regression on the output of the frozen network. finetune: train all weights.",
        json_schema_extra=MAY_CHANGE,
    )
    set: dict[str, Any] = Field(
        {}, description="Overrides of the fine-tuning configuration, such as {training.epochs: 20}."
    )

    _dotted = field_validator("set", mode="before")(lambda value: dotted(value) if isinstance(value, dict) else value)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.finetune is not None and not self.tasks:
            raise ValueError("tasks is empty; list tasks, or set finetune=null")
        if self.tasks and self.finetune is None:
            raise ValueError("tasks needs finetune, the file with the fine-tuning configuration")
        return self


class AblationResourcesSection(Section):
    """Resources of a pretraining run and of a fine-tuning run."""

    pretrain: TrialResources = TrialResources()  # type: ignore[call-arg]
    finetune: TrialResources = TrialResources()  # type: ignore[call-arg]
    concurrent: int | None = Field(
        None, ge=1, le=MAX_RESOURCES, description="Maximum number of concurrent runs; null for as many as fit."
    )


class PlanSection(Section):
    """Estimates of `ldarnet ablate --plan`."""

    flops_per_second: float | None = Field(
        None,
        gt=0,
        le=5e15,
        description="Training speed of one pretraining run in model FLOP/s; null to measure it on this machine.",
    )


class AblationTrackingSection(ParentTrackingSection):
    """MLflow tracking: one run for the ablation, with one nested run per training run."""

    experiment: str = Field("ldarnet-ablations", min_length=1, description="Name of the MLflow experiment.")


class AblationConfig(Config):
    """Configuration of an ablation; load it with `load_config(path, overrides, schema=AblationConfig)`."""

    ablation: AblationSection = Field(json_schema_extra=MAY_CHANGE)
    pretrain: Path = Field(
        description="File with the pretraining configuration shared by all arms.", json_schema_extra=MAY_CHANGE
    )
    set: dict[str, Any] = Field(
        {}, description="Overrides of the pretraining configuration for all arms.", json_schema_extra=MAY_CHANGE
    )
    arms: dict[str, dict[str, Any]] = Field(
        min_length=1,
        max_length=MAX_ARMS,
        description="Arms: name -> overrides of the pretraining configuration, such as {grid: {model.chunking.method: "
        "grid}}; null removes an arm.",
        json_schema_extra=MAY_CHANGE,
    )
    lr: LrSection = LrSection()  # type: ignore[call-arg]
    sizing: SizingSection = Field(SizingSection(), json_schema_extra=MAY_CHANGE)  # type: ignore[call-arg]
    downstream: DownstreamSection = Field(DownstreamSection(), json_schema_extra=MAY_CHANGE)  # type: ignore[call-arg]
    resources: AblationResourcesSection = Field(AblationResourcesSection(), json_schema_extra=MAY_CHANGE)  # type: ignore[call-arg]
    ray: RaySection = Field(RaySection(), json_schema_extra=MAY_CHANGE)  # type: ignore[call-arg]
    tracking: AblationTrackingSection = Field(AblationTrackingSection(), json_schema_extra=MAY_CHANGE)  # type: ignore[call-arg]
    plan: PlanSection = Field(PlanSection(), json_schema_extra=MAY_CHANGE)  # type: ignore[call-arg]

    _dotted = field_validator("set", mode="before")(lambda value: dotted(value) if isinstance(value, dict) else value)

    @field_validator("arms", mode="before")
    @classmethod
    def _present(cls, arms: Any) -> Any:
        """Drop arms that are null, and flatten their overrides to dotted keys."""
        if not isinstance(arms, dict):
            return arms
        kept = {name: tree for name, tree in arms.items() if tree is not None}
        return {name: dotted(tree) if isinstance(tree, dict) else tree for name, tree in kept.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.arms:
            if not ARM_NAME.fullmatch(name):
                raise ValueError(f"arms: {name!r} is not a valid name; use letters, digits, _, + and -")
        if self.ablation.reference not in self.arms:
            raise ValueError(
                f"ablation.reference={self.ablation.reference} is not an arm; choose from {', '.join(self.arms)}"
            )
        if unknown := sorted(self.sizing.bases_per_chunk.keys() - self.arms.keys()):
            raise ValueError(f"sizing.bases_per_chunk: {unknown[0]} is not an arm; choose from {', '.join(self.arms)}")
        for key, values in (("ablation.seeds", self.ablation.seeds), ("lr.values", self.lr.values)):
            if len(set(values)) < len(values):
                raise ValueError(f"{key}={values}: duplicate value; list each value once")
        return self
