"""Types of the JSON files of fine-tuning runs: result.json and data.json."""

from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import AfterValidator, ConfigDict, Field
from typing_extensions import TypeAliasType, TypedDict

from ldarnet.io.records import Count
from ldarnet.tasks.metrics import CLASSIFICATION, REGISTRIES


def _check_task_type(name: str) -> str:
    if name not in REGISTRIES:
        raise ValueError(f"unknown type of task; use one of {', '.join(REGISTRIES)}")
    return name


Score = Annotated[float, Field(ge=-1e9, le=1e9)] | None
"""A metric or a loss; null where it is undefined."""
Scores = dict[str, Score]
Value = TypeAliasType(  # pyrefly: ignore
    "Value",
    "bool | Annotated[int, Field(ge=-2**53, le=2**53)] | float | str | list[Value] | dict[str, Value] | None",
)
"""Value of a setting."""
Chunks = Annotated[list[Annotated[float, Field(ge=0, le=1e12)]], Field(max_length=64)]
"""Bases per chunk of each stage; empty for models without chunks."""


TaskType = Annotated[str, AfterValidator(_check_task_type)]
"""Key of `REGISTRIES`."""


Names = Annotated[list[str], Field(min_length=1)]


class Outcome(TypedDict):
    """The part of result.json that a sweep needs: scores, and which data and checkpoint were used."""

    data_fingerprint: str
    valid: Annotated[Scores, Field(min_length=1)]
    test: NotRequired[Scores | None]
    checkpoint: NotRequired[str | None]
    checkpoint_sha256: NotRequired[str | None]


class Rows(TypedDict):
    """Number of rows of each split of a fold."""

    train: Annotated[Count, Field(ge=1)]
    valid: Count
    test: Count
    test_leak_free: Count | None


class BasesPerChunk(TypedDict):
    """Bases per chunk before and after training."""

    before: Chunks
    after: Chunks


class FoldRecord(Outcome):
    """Content of result.json."""

    task: str
    suite: str
    fold: Count
    folds: Count
    arm: str
    mode: str
    metric: str
    settings: dict[str, Value]
    seed: int
    classes: NotRequired[Names]
    targets: NotRequired[Names]
    rows: Rows
    best_epoch: int | None
    best_step: int | None
    test_leak_free: Scores | None
    bases_per_chunk: BasesPerChunk
    seconds: Annotated[float, Field(ge=0, le=1e12)]
    commit: NotRequired[str | None]
    notes: NotRequired[list[str]]
    intervals: NotRequired[dict[str, Annotated[list[Score], Field(min_length=2, max_length=2)] | None]]
    task_type: NotRequired[TaskType]
    by_target: NotRequired[dict[str, Scores] | None]
    by_class: NotRequired[dict[str, Scores] | None]


class EpochLine(TypedDict):
    """Line of metrics.jsonl of a fold: the keys that result.json needs. Other keys are allowed."""

    __pydantic_config__ = ConfigDict(extra="allow")  # pyrefly: ignore

    epoch: Count
    step: Count
    loss: Score
    mcc: NotRequired[Score]
    auroc: NotRequired[Score]
    bases_per_chunk: Chunks


class DataRecord(TypedDict):
    """The part of data.json that identifies the task, the rows and the checkpoint of a run."""

    fingerprint: str
    checkpoint: str | None
    task: NotRequired[str]


def _check_result(record: Any) -> Any:
    if "test" not in record:
        raise ValueError("test: field required")
    if "classes" not in record and "targets" not in record:
        raise ValueError("classes: field required")
    for split in ("valid", "test", "test_leak_free"):
        if record[split] and record["metric"] not in record[split]:
            raise ValueError(f"{split} has no {record['metric']}")
    return record


RESULT = cast("type[FoldRecord]", Annotated[FoldRecord, AfterValidator(_check_result)])
"""`FoldRecord` that names its classes or targets, and whose scores contain its metric."""


def scores_of(result: FoldRecord, split: Literal["valid", "test", "test_leak_free"]) -> Scores:
    """Scores of a split; empty if there are none."""
    found = {"valid": result["valid"], "test": result.get("test"), "test_leak_free": result["test_leak_free"]}[split]
    return found or {}


def task_type_of(result: FoldRecord) -> str:
    """Type of the task; results of earlier versions are of classification tasks."""
    return result.get("task_type", CLASSIFICATION)


def names_of(result: FoldRecord) -> list[str]:
    """Names of the classes, or of the targets of a regression."""
    return result.get("classes") or result.get("targets") or []


def stages_of(result: FoldRecord) -> tuple[int, int]:
    """Lengths of the lists `before` and `after` in `bases_per_chunk`, which have one value per router stage."""
    chunks = result["bases_per_chunk"]
    return len(chunks["before"]), len(chunks["after"])
