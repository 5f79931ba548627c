"""Configuration of sweeps: tasks, search space, search algorithm and resources."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from ldarnet.config.finetune import MAX_FOLDS
from ldarnet.config.resources import MAX_RESOURCES, ParentTrackingSection, RaySection, ResourcesSection
from ldarnet.config.sections import MAX_EPOCHS, MAY_CHANGE, Config, Section, dotted

MAX_SETTINGS = 10_000
"""Maximum number of settings of a task: combinations of a grid, or samples."""
MAX_BOUND = 2**53
Bound = Annotated[int | float, Field(ge=-MAX_BOUND, le=MAX_BOUND)]
"""Bound of a range; integers in it are exact in float64."""

RANGE_KEYS = frozenset({"low", "high", "log"})


class Range(Section):
    """Range of values to sample, from `low` to `high`; samples are integers if both bounds are integers."""

    low: Bound = Field(description="Lower bound.")
    high: Bound = Field(description="Upper bound.")
    log: bool = Field(False, description="Sample log-uniformly.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low={self.low} must be less than high={self.high}; swap or change them")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low} must be more than 0 for log=true; raise it or set log=false")
        return self


Values = Annotated[
    Annotated[list[Any], Field(min_length=1), Tag("list")] | Annotated[Range, Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, dict | Range) else "list"),
]
"""Values of a key in the search space: a list or a range."""


class SweepSection(Section):
    """Folder, tasks and retries of the sweep."""

    dir: Path = Field(description="Sweep folder, shared by all machines of the cluster.")
    tasks: str | list[str] | None = Field(
        None,
        min_length=1,
        description="Tasks or suites (nt, gb, gue) from `ldarnet tasks`; null for the task in the fine-tuning "
        "configuration.",
    )
    retries: int = Field(
        2,
        ge=0,
        le=MAX_RESOURCES,
        description="Maximum number of times that a failed or killed fold is retried in one launch of the sweep.",
    )
    keep_weights: Literal["chosen", "all"] = Field(
        "chosen",
        description="chosen: once a task's best settings are selected, delete the weights trained with other settings. "
        "all: keep all weights.",
    )


class AshaSection(Section):
    """Asynchronous successive halving (ASHA): stop trials with a low validation metric early."""

    grace: int = Field(5, ge=1, le=MAX_EPOCHS, description="Minimum number of epochs before a trial can be stopped.")
    reduction: float = Field(
        3,
        gt=1,
        le=MAX_EPOCHS,
        description="Reduction factor: only the best 1/reduction of the trials at a rung continue.",
    )


class SearchSection(Section):
    """Search algorithm."""

    kind: Literal["grid", "optuna"] = Field("grid", description="grid: all combinations. optuna: TPE sampler.")
    trials: int = Field(
        20, ge=1, le=MAX_SETTINGS, description="Number of combinations of settings to try per task; optuna only."
    )
    folds: list[Annotated[int, Field(ge=0, lt=MAX_FOLDS)]] | None = Field(
        None,
        min_length=1,
        description="Folds on which settings are compared; null for all. Other folds are trained with the best "
        "settings only.",
    )
    seed: int = Field(42, ge=0, lt=2**31, description="Seed of the sampler; optuna only.")
    asha: AshaSection | None = Field(None, description="Early stopping with ASHA; null to disable.")


class SweepTrackingSection(ParentTrackingSection):
    """MLflow tracking: one run for the sweep, with one nested run per trial."""

    experiment: str = Field("ldarnet-sweeps", min_length=1, description="Name of the MLflow experiment.")


class SweepConfig(Config):
    """Configuration of a sweep; load it with `load_config(path, overrides, schema=SweepConfig)`.

    When a sweep is resumed, `finetune`, `set` and `checkpoint` must not change, because they determine the result of a
    trial. `space` must have the same keys, but the values of a key may change. The tasks and the search settings may
    change, too.
    """

    sweep: SweepSection = Field(json_schema_extra=MAY_CHANGE)
    finetune: Path = Field(description="File with the fine-tuning configuration shared by all trials.")
    set: dict[str, Any] = Field(
        {}, description="Overrides of the fine-tuning configuration, such as {training.epochs: 20}."
    )
    checkpoint: Path | None = Field(
        None, description="Checkpoint to fine-tune; null for the one in the fine-tuning configuration."
    )
    space: dict[str, Values] = Field(
        {}, description="Search space: fine-tuning key -> list of values, or {low, high, log} with optuna."
    )
    search: SearchSection = Field(SearchSection(), json_schema_extra=MAY_CHANGE)  # type: ignore[call-arg]
    resources: ResourcesSection = Field(ResourcesSection(), json_schema_extra=MAY_CHANGE)  # type: ignore[call-arg]
    ray: RaySection = Field(RaySection(), json_schema_extra=MAY_CHANGE)  # type: ignore[call-arg]
    tracking: SweepTrackingSection = Field(SweepTrackingSection(), json_schema_extra=MAY_CHANGE)  # type: ignore[call-arg]

    @field_validator("set", "space", mode="before")
    @classmethod
    def _dotted(cls, value: Any) -> Any:
        """Flatten `{optimizer: {lr: ...}}`, which command-line overrides produce, to `{optimizer.lr: ...}`."""
        return dotted(value, lambda tree: tree.keys() <= RANGE_KEYS) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _searchable(self) -> Self:
        ranges = [key for key, values in self.space.items() if isinstance(values, Range)]
        if self.search.kind == "grid" and ranges:
            raise ValueError(
                f"space.{ranges[0]} is a range, which a grid does not support; list values or set search.kind=optuna"
            )
        combinations = math.prod(len(values) for values in self.space.values() if isinstance(values, list))
        if self.search.kind == "grid" and combinations > MAX_SETTINGS:
            raise ValueError(
                f"space has {combinations:,} combinations, more than {MAX_SETTINGS:,}; list fewer values, or set "
                "search.kind=optuna"
            )
        if self.search.kind == "optuna" and not self.space:
            raise ValueError(
                "space is empty: search.kind=optuna has nothing to search; add keys or set search.kind=grid"
            )
        if both := self.space.keys() & self.set.keys():
            raise ValueError(f"{min(both)} is in both `space` and `set`; remove it from one of them")
        return self
