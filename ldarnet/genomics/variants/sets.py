"""The registry of published sets of labeled variants, and their download."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ldarnet.errors import UserError
from ldarnet.io.cache import default_cache_folder
from ldarnet.io.names import FileName, inside
from ldarnet.io.published_files import CachedFile, fetch_files
from ldarnet.io.records import Count, Sha256, parse_record, read_yaml
from ldarnet.plugins import suggestion
from ldarnet.printable import printable

_REGISTRY = Path(__file__).with_name("sets.yaml")


@dataclass(frozen=True, slots=True)
class VariantSet:
    """A published set of labeled variants; sets.yaml explains the attributes.

    Attributes:
        name: name of the set.
        title: what the set is, with its publication.
        license: license of the data, free text.
        source: URL of the publisher, with the revision.
        assembly: assembly of the positions.
        file: the file to download.
        label: column or INFO field with the labels.
        positive: labels of positives.
        negative: labels of negatives.
        group: column with matched groups; None if there are none.
        drop: columns that scored tables do not keep.
        min_stars: minimum review stars; only for ClinVar.
        counts: numbers of positives and negatives as published; None if they change.
    """

    name: str
    title: str
    license: str
    source: str
    assembly: str
    file: CachedFile
    label: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    group: str | None
    drop: tuple[str, ...]
    min_stars: int | None
    counts: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class _SetEntry:
    title: str
    license: str
    source: str
    revision: str | None
    file: str
    assembly: str
    label: str
    positive: Annotated[list[str], Field(min_length=1)]
    negative: Annotated[list[str], Field(min_length=1)]
    counts: Annotated[list[Count], Field(min_length=2, max_length=2)] | None
    group: str | None = None
    drop: list[str] = field(default_factory=list)
    min_stars: Annotated[int, Field(ge=0, le=4)] | None = None
    sha256: Sha256 | None = None
    md5: str | None = None


@dataclass(frozen=True, slots=True)
class _SetRegistry:
    sets: dict[FileName, _SetEntry]


@cache
def all_sets() -> dict[str, VariantSet]:
    """All published sets by name, in the order of the registry."""
    return read_sets(_REGISTRY)


def read_sets(path: Path) -> dict[str, VariantSet]:
    """Read a registry file; see sets.yaml for its keys.

    Raises:
        UserError: the file is malformed.
    """
    content = parse_record(json.dumps(read_yaml(path), default=str), _SetRegistry, where=str(path), hint="fix the file")
    return {name: _set(name, entry, str(path)) for name, entry in content.sets.items()}


def find_set(name: str) -> VariantSet:
    """Find a set by its name.

    Raises:
        UserError: no set has this name.
    """
    if name not in all_sets():
        raise UserError(f"{printable(name)}: no published set of that name; {suggestion(name, all_sets())}")
    return all_sets()[name]


def fetch_set(chosen: VariantSet, cache: Path | None = None) -> tuple[Path, list[str]]:
    """Download the file of a set if it is not in the cache, and verify it.

    Args:
        chosen: the set.
        cache: folder for all sets; ``~/.cache/ldarnet/variants`` by default.

    Returns:
        The file, and notes if it could not be verified when it was downloaded.

    Raises:
        UserError: the file cannot be downloaded, has changed or is damaged.
    """
    folder = (cache or default_cache_folder() / "variants") / chosen.name
    return folder / chosen.file.name, fetch_files(folder, [chosen.file], "--cache")


def _set(name: str, entry: _SetEntry, where: str) -> VariantSet:
    url = f"{entry.source}/{entry.file.format(revision=entry.revision)}"
    file = url.rpartition("/")[2]
    inside(Path(), file, where, "fix the file")
    md5_url = f"{entry.source}/{entry.md5}" if entry.md5 else None
    return VariantSet(
        name=name,
        title=entry.title,
        license=entry.license,
        source=entry.source + (f" at {entry.revision}" if entry.revision else ""),
        assembly=entry.assembly,
        file=CachedFile(file, url, entry.sha256, md5_url),
        label=entry.label,
        positive=tuple(entry.positive),
        negative=tuple(entry.negative),
        group=entry.group,
        drop=tuple(entry.drop),
        min_stars=entry.min_stars,
        counts=(entry.counts[0], entry.counts[1]) if entry.counts else None,
    )
