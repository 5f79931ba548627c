"""Settings of training runs, to compare runs that may differ only in some keys."""

from collections.abc import Sequence
from typing import Any

from ldarnet.config import RunConfig, flatten


def settings(config: RunConfig, without: Sequence[str]) -> dict[str, Any]:
    """Flattened configuration without some keys."""
    return {key: value for key, value in flatten(config).items() if key not in without}


def differing_keys(one: RunConfig, other: RunConfig, without: Sequence[str]) -> str:
    """Keys whose values differ, as a text; empty if no others than those in `without` differ."""
    ours, theirs = settings(one, without), settings(other, without)
    return ", ".join(key for key in ours | theirs if ours.get(key) != theirs.get(key))
