"""Types of the JSON files of an ablation: ablation.json and statistics.json."""

from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.names import FileName, RelativePath
from ldarnet.io.records import Count, read_record
from ldarnet.printable import printable

HINT = "run the same ablation again"

LENGTH_BINS = 64
"""Bins of `chunk_lengths`, from 1 base; the last bin also counts longer chunks."""

Number = float | None
"""A number; null where it is undefined."""
Numbers = Annotated[list[Number], Field(max_length=10_000)]
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]


class SeedRecord(TypedDict):
    """Pretraining of an arm with one seed; `reason` says why it failed."""

    state: str
    reason: NotRequired[str | None]


class ArmRecord(TypedDict):
    """An arm after sizing, with the learning rate that the search chose."""

    title: NotRequired[str | None]
    config: dict[str, Any]
    bases_per_token: NotRequired[Annotated[float, Field(ge=1, le=1e6)] | None]
    parameters: NotRequired[Count | None]
    lr: NotRequired[Number]
    seeds: Annotated[dict[FileName, SeedRecord], Field(max_length=1000)]


class AblationRecord(TypedDict):
    """The part of ablation.json that statistics and report need."""

    reference: FileName
    arms: Annotated[dict[FileName, ArmRecord], Field(min_length=1, max_length=1000)]
    tasks: list[RelativePath]
    modes: list[FileName]


class AgreementRecord(TypedDict):
    """Agreement of two masks; see :class:`ldarnet.interpret.agreement.Agreement`."""

    jaccard: Number
    interval: Interval
    random: Number
    permuted: Number
    corrected: Number
    corrected_interval: Interval


class StrandRecord(AgreementRecord):
    """Agreement of the strands, and correlation of their probabilities."""

    correlation: Number


class LeakRecord(TypedDict):
    """See :class:`ldarnet.interpret.agreement.MaskLeak`."""

    within: dict[str, Interval]
    rates: Numbers
    rate: Number


class StabilityRecord(TypedDict):
    """See :class:`ldarnet.interpret.stability.Stability`."""

    edits: Count
    boundaries: Number
    changed: dict[str, Number]
    affected: dict[str, Number]
    rates: Numbers


class StageRecord(TypedDict):
    """Statistics of one router; `chunk_lengths` counts chunks of 1, 2, ... bases, the last bin also longer ones."""

    bases_per_chunk: Number
    chunk_lengths: Annotated[list[Count], Field(min_length=LENGTH_BINS, max_length=LENGTH_BINS)]
    strands: StrandRecord
    leak: dict[str, LeakRecord]
    stability: dict[str, StabilityRecord]


class PairRecord(TypedDict):
    """Agreement of two seeds, one entry per router."""

    seeds: Annotated[list[FileName], Field(min_length=2, max_length=2)]
    stages: list[AgreementRecord]


class StatisticsRecord(TypedDict):
    """Content of statistics.json; a model without routers has no stages."""

    windows: Count
    length: Count
    seeds: dict[FileName, list[StageRecord]]
    pairs: list[PairRecord]


def read_ablation(folder: Path) -> AblationRecord:
    """Read ablation.json of an ablation folder.

    Raises:
        UserError: the folder is not an ablation, or the file is malformed.
    """
    path = folder / run_files.ABLATION_RECORD
    if not path.is_file():
        raise UserError(f"{folder}: not an ablation: no {run_files.ABLATION_RECORD}; pass the folder of an ablation")
    record = read_record(path, AblationRecord, hint=HINT)
    if record["reference"] not in record["arms"]:
        raise UserError(f"{path}: the reference {printable(record['reference'])} is not an arm; {HINT}")
    return record


def seed_folder(folder: Path, arm: str, seed: str) -> Path:
    """Folder of an arm and seed, which contains its pretraining and its fine-tuning runs."""
    return folder / run_files.ARMS / arm / run_files.seed_name(seed)


def pretraining_folder(folder: Path, arm: str, seed: str) -> Path:
    """Folder of the pretraining run of an arm and seed."""
    return seed_folder(folder, arm, seed) / run_files.PRETRAINING


def is_finished(run: Path) -> bool:
    """Whether a pretraining run is finished: its summary is the last file that it writes."""
    return (run / run_files.SUMMARY_TEXT).is_file()
