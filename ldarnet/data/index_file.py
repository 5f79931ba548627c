"""Read and check ``index.json``, the main file of the index of a shard set."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ldarnet.errors import UserError
from ldarnet.io.files import read_errors
from ldarnet.io.names import FileName
from ldarnet.io.records import MAX_BYTES, Count, Sha256, parse_record, read_bytes

INDEX_NAME = "index.json"
UNFINISHED = "unfinished"
"""Subfolder of the output folder that exists only while a build is unfinished."""
FORMAT_NAME = "ldarnet-shards"
FORMAT_VERSION = 2
TABLES = ("contigs.npy", "names.txt", "letter_runs.npy", "splits.npy", "blocks.npy")
"""The files that ``index.json`` describes."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Name, size in bytes and SHA-256 of a shard, which is a tar file."""

    name: FileName
    size: Count
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class IndexTable:
    """Size in bytes and SHA-256 of a table."""

    size: Count
    sha256: Sha256


class RecipeSource(BaseModel):
    """An input file in a recipe: name without its folder, species ("" if unnamed), size in bytes and SHA-256."""

    name: str
    species: str
    size: Count
    sha256: Sha256


class Recipe(BaseModel):
    """The entries of a recipe that ldarnet reads. A recipe also holds the options of the build."""

    model_config = ConfigDict(extra="allow")

    sources: list[RecipeSource]
    excluded: dict[str, Count] = {}


class IndexFile(BaseModel):
    """Content of ``index.json``; attributes not listed here are described in `ldarnet.data.index.Index`.

    Attributes:
        splits: name -> number of intervals.
        tables: size and hash of each table.
    """

    tool: str
    fingerprint: Sha256
    recipe: Recipe
    species: list[str]
    splits: dict[str, Count] = Field(min_length=1)
    tables: dict[Literal["contigs.npy", "names.txt", "letter_runs.npy", "splits.npy", "blocks.npy"], IndexTable]
    shards: list[Shard]


def read_index(folder: Path) -> IndexFile:
    """Read and verify the ``index.json`` of a folder, but not the tables.

    Raises:
        UserError: the folder is not a shard set, or the file is damaged, unreadable or in an unsupported format.
    """
    path = folder / INDEX_NAME
    with read_errors(path):
        if not path.exists():
            hint = f"build one with `ldarnet shard --out {folder} genome.fa.gz --split valid=CONTIG`"
            if (folder / UNFINISHED).is_dir():
                hint = "its build is unfinished: run the same build command again to resume it"
            raise UserError(f"{folder}: not a shard set (it has no {INDEX_NAME}); {hint}")
    hint = f"delete {folder} and build it again"
    return parse_index(read_bytes(path, hint=hint, max_bytes=MAX_BYTES), where=str(path), hint=hint)


def parse_index(text: bytes, *, where: str, hint: str) -> IndexFile:
    """Parse ``index.json`` and verify its checksum.

    Args:
        text: content of the file.
        where: path or URL of the file, for error messages.
        hint: what to do if it is damaged.

    Raises:
        UserError: the file is damaged, or its format is unsupported.
    """
    content = parse_record(text, Any, where=where, hint=hint)
    if not isinstance(content, dict) or content.get("format") != FORMAT_NAME:
        raise UserError(f"{where}: not the index of a shard set; use a folder built by `ldarnet shard`")
    version = content.get("version")
    if version != FORMAT_VERSION:
        found = version if isinstance(version, int) else "unknown"
        upgrade = "upgrade ldarnet" if isinstance(version, int) and version > FORMAT_VERSION else "build it again"
        raise UserError(f"{where}: format version {found}, but this program reads version {FORMAT_VERSION}; {upgrade}")
    if content.pop("checksum", None) != checksum(content):
        raise UserError(f"{where}: damaged (it does not match its checksum); {hint}")
    index = parse_record(text, IndexFile, where=where, hint=hint)
    if missing := [name for name in TABLES if name not in index.tables]:
        raise UserError(f"{where}: damaged (it has no entry for {missing[0]}); {hint}")
    return index


def checksum(content: dict[str, Any]) -> str:
    """SHA-256 of the content of ``index.json``; the order of the keys does not matter.

    Args:
        content: the JSON object, without the key ``checksum``.
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
