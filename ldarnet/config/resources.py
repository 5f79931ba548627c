"""Configuration sections of programs that run on a Ray cluster: resources of a trial, address, tracking."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ldarnet.config.sections import Section

MAX_RESOURCES = 100_000
"""Maximum number of CPU cores, GPUs, ranks, concurrent trials and retries."""


class TrialResources(Section):
    """Resources of a trial."""

    cpus: float = Field(1, gt=0, le=MAX_RESOURCES, description="CPU cores per trial.")
    gpus: float | None = Field(
        None,
        ge=0,
        le=MAX_RESOURCES,
        description="GPUs per trial, such as 0.25 for four trials per GPU. null: one GPU per rank, or none if the "
        "cluster has no GPUs.",
    )
    ranks: int = Field(1, ge=1, le=MAX_RESOURCES, description="Ranks per trial; more than 1 needs launcher=deepspeed.")
    launcher: Literal["python", "deepspeed"] = Field(
        "python", description="Launcher of each trial; deepspeed is needed for more than one rank."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.ranks > 1 and self.launcher == "python":
            raise ValueError(f"ranks={self.ranks} needs launcher=deepspeed; set launcher=deepspeed or ranks=1")
        if self.gpus is not None and self.gpus > 1 and self.gpus != self.ranks:
            raise ValueError(
                f"gpus={self.gpus:g} with ranks={self.ranks}: each rank uses one GPU; set ranks={self.gpus:g} "
                f"or gpus={self.ranks}"
            )
        if self.gpus is not None and 0 < self.gpus <= 1 and self.ranks > 1:
            raise ValueError(
                f"gpus={self.gpus:g} with ranks={self.ranks}: each rank uses one GPU; set gpus={self.ranks}, or "
                "gpus=0 to train on CPUs"
            )
        return self


class ResourcesSection(TrialResources):
    """Resources of each trial, and the number of concurrent trials."""

    concurrent: int | None = Field(
        None,
        ge=1,
        le=MAX_RESOURCES,
        description="Maximum number of concurrent trials; null for as many as the resources allow.",
    )


class RaySection(Section):
    """Connection to a Ray cluster."""

    address: str | None = Field(
        None,
        description="Address of a running cluster (host:port or auto); null to start a local cluster.",
    )


class ParentTrackingSection(Section):
    """MLflow tracking: one run with one nested run per trial."""

    mlflow: bool = Field(
        True,
        description="Log to MLflow at MLFLOW_TRACKING_URI or, if this variable is not set, to mlflow.db "
        "in the folder of this program.",
    )
    experiment: str = Field("ldarnet", min_length=1, description="Name of the MLflow experiment.")
