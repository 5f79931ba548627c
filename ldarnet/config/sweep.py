"""The typed, frozen description of a sweep: tasks, folds, what is searched, and on what machines."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from ldarnet.config.schema import MAY_CHANGE, Config, Section

RANGE_KEYS = frozenset({"low", "high", "log"})


class Range(Section):
    """Numbers from `low` to `high`; whole ones if both are."""

    low: int | float = Field(description="The least.")
    high: int | float = Field(description="The greatest.")
    log: bool = Field(False, description="Draw the logarithm evenly.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low={self.low} must be less than high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low} must be more than 0 where log=true")
        return self


Values = Annotated[
    Annotated[list[Any], Field(min_length=1), Tag("list")] | Annotated[Range, Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, dict | Range) else "list"),
]
"""A list to choose from, or a range to draw from."""


class SweepSection(Section):
    """Where the sweep lives, and its tasks."""

    dir: Path = Field(description="Folder of the sweep, seen by all machines of the cluster.")
    tasks: str | list[str] | None = Field(
        None,
        min_length=1,
        description="Names in the registry, or a suite (nt, gb, gue) for all of its tasks; null for the one that "
        "`finetune` describes.",
    )
    retries: int = Field(2, ge=0, description="How often a fold that fails or is killed is begun again in one start.")
    keep_weights: Literal["chosen", "all"] = Field(
        "chosen", description="chosen: when a task's setting is chosen, the weights of the others are deleted."
    )


class AshaSection(Section):
    """Asynchronous successive halving: folds that fall behind in validation are stopped early."""

    grace: int = Field(5, ge=1, description="Epochs before which no fold is stopped.")
    reduction: float = Field(3, gt=1, description="One in so many goes on from each rung to the next.")


class SearchSection(Section):
    """How settings are found and compared."""

    kind: Literal["grid", "optuna"] = Field("grid", description="grid: every combination. optuna: TPE.")
    trials: int = Field(20, ge=1, description="Settings to try for each task; optuna only.")
    folds: list[Annotated[int, Field(ge=0)]] | None = Field(
        None,
        min_length=1,
        description="Folds that settings are compared on; the others are trained with the chosen one. Null for all.",
    )
    seed: int = Field(42, ge=0, lt=2**31, description="Of the suggestions; optuna only.")
    asha: AshaSection | None = Field(None, description="Stop folds early; null to let every one end by itself.")


class ResourcesSection(Section):
    """What one trial takes: a fold of a task with one setting."""

    cpus: float = Field(1, gt=0, description="CPU cores.")
    gpus: float | None = Field(
        None, ge=0, description="GPUs, such as 0.25 for four trials on each; null for 1 where the cluster has any."
    )
    ranks: int = Field(1, ge=1, description="Processes that share a fold; more than 1 needs launcher=deepspeed.")
    launcher: Literal["python", "deepspeed"] = Field("python", description="What starts launch/finetune.py.")
    concurrent: int | None = Field(None, ge=1, description="Most trials at a time; null for as many as there is room.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.ranks > 1 and self.launcher == "python":
            raise ValueError(f"ranks={self.ranks} needs launcher=deepspeed")
        if self.gpus is not None and self.gpus > 1 and self.gpus != self.ranks:
            raise ValueError(f"gpus={self.gpus:g} needs ranks={self.gpus:g}: a rank uses one GPU")
        if self.gpus is not None and 0 < self.gpus <= 1 and self.ranks > 1:
            raise ValueError(f"ranks={self.ranks} needs gpus={self.ranks} (or 0): a rank uses one GPU")
        return self


class RaySection(Section):
    """The Ray cluster."""

    address: str | None = Field(
        None, description="Of a running cluster, host:port or auto; null for one of this machine, for this sweep alone."
    )


class SweepTrackingSection(Section):
    """MLflow: one run for the sweep, and under it one for each trial."""

    mlflow: bool = Field(True, description="Log to MLFLOW_TRACKING_URI, else to mlflow.db in the sweep's folder.")
    experiment: str = Field("ldarnet-sweeps", min_length=1, description="Name of the MLflow experiment.")


class SweepConfig(Config):
    """A sweep. `load_config(path, overrides, schema=SweepConfig)` reads it.

    What enters the result of a trial is described by `finetune`, `set`, `checkpoint` and the keys of `space`: these
    stay as they are while tasks, values and the way of searching may change from one start of a sweep to the next.
    """

    sweep: SweepSection = Field(json_schema_extra=MAY_CHANGE)
    finetune: Path = Field(description="Configuration of fine-tuning that all trials share.")
    set: dict[str, Any] = Field({}, description="Changes to it, such as {training.epochs: 20}.")
    checkpoint: Path | None = Field(None, description="Of the model that is tuned; null for that of `finetune`.")
    space: dict[str, Values] = Field(
        {}, description="What is searched: key of fine-tuning -> list of values, or with optuna {low, high, log}."
    )
    search: SearchSection = Field(SearchSection(), json_schema_extra=MAY_CHANGE)  # type: ignore[call-arg]
    resources: ResourcesSection = Field(ResourcesSection(), json_schema_extra=MAY_CHANGE)  # type: ignore[call-arg]
    ray: RaySection = Field(RaySection(), json_schema_extra=MAY_CHANGE)  # type: ignore[call-arg]
    tracking: SweepTrackingSection = Field(SweepTrackingSection(), json_schema_extra=MAY_CHANGE)  # type: ignore[call-arg]

    @field_validator("set", "space", mode="before")
    @classmethod
    def _dotted(cls, value: Any) -> Any:
        """Take `{optimizer: {lr: ...}}`, as an override on the command line makes it, for `{optimizer.lr: ...}`."""
        return dict(_flat(value)) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _searchable(self) -> Self:
        ranges = [key for key, values in self.space.items() if isinstance(values, Range)]
        if self.search.kind == "grid" and ranges:
            raise ValueError(
                f"space.{ranges[0]} is a range, which a grid cannot go through; list values, or set search.kind=optuna"
            )
        if self.search.kind == "optuna" and not self.space:
            raise ValueError("space is empty: give search.kind=optuna something to search, or set search.kind=grid")
        if both := self.space.keys() & self.set.keys():
            raise ValueError(f"{min(both)} is in space and in set; take it out of one")
        return self


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value and not value.keys() <= RANGE_KEYS:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
