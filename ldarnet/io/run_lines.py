"""Lines of metrics.jsonl, boundaries.jsonl and starts.jsonl of a pretraining run.

Keys that readers do not need are ignored, so that callbacks and later versions can add keys.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeVar, cast

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.records import Count, read_records

T = TypeVar("T")

HINT = "delete this line"

Number = float | None
"""A metric; NaN, infinite or null where it is undefined."""
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Stages = Annotated[list[Number], Field(max_length=64)]
"""One value per stage with a router, outermost stage first."""
Numbers = Annotated[dict[str, Number], Field(max_length=1000)]


NEXT_BASE_LOSS = "next_base_loss"
LOSSES = {"mlm_loss": "MLM loss", NEXT_BASE_LOSS: "next-base loss"}
"""Key of the loss in a line -> name of the loss. A line has one of them, and so have all lines of a run."""


def loss_name(line: Mapping[str, Any]) -> str:
    """Key of the loss in a training or validation line."""
    return next(key for key in LOSSES if key in line)


def loss_of(line: Mapping[str, Any]) -> float | None:
    """Loss in a training or validation line."""
    return line[loss_name(line)]


class TrainLine(TypedDict):
    """Training line of metrics.jsonl."""

    split: Literal["train"]
    step: Count
    bases: Count
    mlm_loss: NotRequired[Number]
    next_base_loss: NotRequired[Number]
    bases_per_chunk: Stages
    epoch: NotRequired[Number]
    seconds: NotRequired[Seconds]
    length: NotRequired[Annotated[int, Field(ge=1, le=2**40)]]
    target_ratio: NotRequired[Number]
    boundary_histogram: NotRequired[list[Annotated[list[float], Field(min_length=1)]]]
    boundary_rate: NotRequired[Numbers]
    periodicity: NotRequired[Stages]
    period: NotRequired[list[Count]]
    chunk_imbalance: NotRequired[Stages]
    gradient_norm: NotRequired[Number]
    gradient_norms: NotRequired[Numbers]
    lr: NotRequired[Numbers]
    bases_per_second: NotRequired[Number]
    mfu: NotRequired[Number]
    phase_share: NotRequired[Numbers]
    data_wait: NotRequired[Number]
    memory: NotRequired[dict[str, Annotated[float, Field(ge=0, le=1e18)]]]
    checkpoint_stall_seconds: NotRequired[Seconds]
    skipped: NotRequired[Count]
    checkpoint_failures: NotRequired[Count]
    warnings: NotRequired[dict[str, str]]


class Region(TypedDict):
    """Validation metrics of a region with `scored` target positions; if `scored` is 0, the other keys are missing."""

    scored: Count
    mlm_loss: NotRequired[Number]
    next_base_loss: NotRequired[Number]
    bases_per_chunk: NotRequired[Stages]


class MaskScores(TypedDict):
    """Validation metrics with one mask; `marginal_loss` is that of k-mer distributions, marginalized to bases."""

    mask_loss: Number
    marginal_loss: NotRequired[Number]


class ValidLine(TypedDict):
    """Validation line of metrics.jsonl."""

    split: Literal["valid"]
    step: Count
    mlm_loss: NotRequired[Number]
    next_base_loss: NotRequired[Number]
    bases_per_chunk: Stages
    mask_loss: NotRequired[Number]
    composition_loss: NotRequired[Number]
    accuracy: NotRequired[Number]
    marginal_loss: NotRequired[Number]
    bits_per_base: NotRequired[Number]
    bases_per_token: NotRequired[Number]
    next_base_accuracy: NotRequired[Number]
    masks: NotRequired[Annotated[dict[str, MaskScores], Field(max_length=1000)]]
    regions: NotRequired[Annotated[dict[str, Region], Field(max_length=1000)]]


class SampleLine(TypedDict):
    """Line of boundaries.jsonl: boundaries along one held-out window; probabilities are in percent, one per base."""

    step: Count
    contig: str
    start: Count
    bases: Annotated[str, Field(pattern="^[ACGTN]+$", max_length=2**16)]
    boundaries: Annotated[list[list[Count]], Field(min_length=1, max_length=64)]
    probability: list[Annotated[int, Field(ge=0, le=100)]]


class LaunchLine(TypedDict):
    """Line of starts.jsonl: time, hardware and versions of a launch."""

    step: Count
    time: str
    ranks: Count
    device: str
    zero_stage: Count
    ldarnet: str
    commit: str | None
    python: str
    torch: str
    deepspeed: str
    kernels: dict[str, str]


_PER_STAGE = ("boundary_histogram", "periodicity", "period", "chunk_imbalance")


def _check_line(line: Any) -> Any:
    if sum(key in line for key in LOSSES) != 1:
        raise ValueError(f"must have exactly one of {' and '.join(LOSSES)}")
    for key in _PER_STAGE:
        if key in line and len(line[key]) != len(line["bases_per_chunk"]):
            raise ValueError(f"{key} and bases_per_chunk have different numbers of stages")
    return line


def _check_window(sample: SampleLine) -> SampleLine:
    bases = len(sample["bases"])
    if len(sample["probability"]) != bases or any(at >= bases for stage in sample["boundaries"] for at in stage):
        raise ValueError("probability and bases differ in length, or a boundary is beyond the last base")
    return sample


_CheckedSample = Annotated[SampleLine, AfterValidator(_check_window)]
_MetricsLine = Annotated[
    Annotated[TrainLine | ValidLine, Field(discriminator="split")],
    AfterValidator(_check_line),
]


def read_metrics_lines(
    path: Path, *, advance: Callable[[int], object] = lambda _: None
) -> Iterator[TrainLine | ValidLine]:
    """Yield the lines of metrics.jsonl.

    Args:
        path: the file.
        advance: called with the number of bytes of each line.

    Raises:
        UserError: the file cannot be read, a line is malformed, or the number of stages or the kind of loss changes.
    """
    stages = loss = None
    kind = cast("type[TrainLine | ValidLine]", _MetricsLine)
    for number, line in read_records(path, kind, hint=HINT, advance=advance):
        found = len(line["bases_per_chunk"])
        if found != (stages := found if stages is None else stages):
            raise UserError(f"{path}: line {number}: bases_per_chunk has {found} stages, line 1 has {stages}; {HINT}")
        if (name := loss_name(line)) != (loss := loss or name):
            raise UserError(f"{path}: line {number}: has {name}, line 1 has {loss}; {HINT}")
        yield line


def read_samples(folder: Path) -> list[SampleLine]:
    """Read boundaries.jsonl of a run folder; empty if there is no such file.

    Raises:
        UserError: the file cannot be read, or a line is malformed.
    """
    return _read(folder / run_files.BOUNDARIES, cast("type[SampleLine]", _CheckedSample))


def read_launches(folder: Path) -> list[LaunchLine]:
    """Read starts.jsonl of a run folder; empty if there is no such file.

    Raises:
        UserError: the file cannot be read, or a line is malformed.
    """
    return _read(folder / run_files.LAUNCHES, LaunchLine)


def _read(path: Path, kind: type[T]) -> list[T]:
    return [line for _, line in read_records(path, kind, hint=HINT)] if path.exists() else []
