"""Configuration section of validation during pretraining."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from ldarnet.config.sections import MAX_LENGTH, MAX_STEPS, MAY_CHANGE, Section


class ValidationSection(Section):
    """Validation on windows of a held-out split. The windows and their masks are the same in each validation."""

    every: int = Field(500, ge=1, le=MAX_STEPS, description="Validation interval in steps.")
    split: str = Field("valid", description="Name of the held-out split in the shard set.")
    windows: int = Field(
        256,
        ge=0,
        le=MAX_STEPS,
        description="Number of windows, evenly spaced over the split; 0 disables validation.",
    )
    mask_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Fraction of A, C, G, T positions that are prediction targets; null for data.mask_rate. Set it to "
        "compare runs that train with different rates.",
    )
    mask_spans: list[Annotated[int, Field(ge=1, le=MAX_LENGTH)]] = Field(
        [],
        max_length=16,
        description="Span lengths of the masks to validate with, such as [1, 6] for single bases and spans of 6 bases; "
        "empty for data.mask_span. The first one selects the best checkpoint.",
    )
    regions: Path | None = Field(
        None,
        description="BED file with region names (repeat, coding, ...) in column 4, or GFF3 file with feature types, "
        "which are used as region names. Metrics are also computed for each region name.",
        json_schema_extra=MAY_CHANGE,
    )
    regions_features: list[str] = Field(
        [],
        description="Region names to score, such as [gene, repeat_region]; empty for all names in the file.",
        json_schema_extra=MAY_CHANGE,
    )
    regions_contigs: dict[str, str] | Path | None = Field(
        None,
        description="Contig names: a mapping from names in the `regions` file to names in the shard set, such as "
        "{chr1: NC_000001.11}, or a file that lists both names in two tab-separated columns.",
        json_schema_extra=MAY_CHANGE,
    )

    @field_validator("mask_spans", "regions_features")
    @classmethod
    def _distinct(cls, values: list[int | str]) -> list[int | str]:
        if repeated := [value for value in values if values.count(value) > 1]:
            raise ValueError(f"{repeated[0]} is listed twice; remove one")
        return values
